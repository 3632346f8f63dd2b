// SPDX-License-Identifier: Apache-2.0
// Window sections by docs/sparse_format.md; part of kernels_test.cc. Shares nothing with the
// kernels or with the packer in Python: everything that the format leaves open is drawn at random,
// so that kernels meet whatever a packer may write.

struct WindowSections {
  std::vector<int32_t> order, start;
  std::vector<uint8_t> step, position;
  std::vector<int8_t> value;
};

// One lane's records while they are made.
struct LaneRecord {
  size_t first;
  uint8_t position[16];
  int8_t value[16];
};

class WindowPacker {
 public:
  WindowPacker(Random& random, size_t rows, size_t columns, const std::vector<double>& dense,
               const std::vector<char>& stored)
      : random_(random), columns_(columns), dense_(dense), stored_(stored) {
    const size_t tiles = (rows + 7) / 8;
    for (size_t i = 0; i < 8 * tiles; ++i) {
      out_.order.push_back(i < rows ? static_cast<int32_t>(i) : -1);
    }
    for (size_t i = out_.order.size(); i > 1; --i) {
      std::swap(out_.order[i - 1], out_.order[random_.Below(i)]);
    }
    out_.start.push_back(0);
    for (size_t tile = 0; tile < tiles; ++tile) AddTile(tile);
  }
  const WindowSections& out() const { return out_; }

 private:
  // Columns of the weights that an entry has yet to store.
  std::vector<size_t> Columns(size_t entry) const {
    std::vector<size_t> columns;
    const int32_t row = out_.order[entry];
    for (size_t j = 0; row >= 0 && j < columns_; ++j) {
      if (stored_[static_cast<size_t>(row) * columns_ + j] != 0) columns.push_back(j);
    }
    return columns;
  }

  // Up to 4 of an entry's weights in the window at `first`; `at` counts those stored before.
  void FillEntry(size_t entry, const std::vector<size_t>& columns, size_t most, LaneRecord& record,
                 size_t& at) {
    uint8_t* position = record.position + entry % 4 * 4;
    size_t used = 0;
    while (used < most && at < columns.size() && columns[at] < record.first + 16) {
      const size_t row = static_cast<size_t>(out_.order[entry]);
      position[used] = static_cast<uint8_t>(columns[at] - record.first);
      record.value[entry % 4 * 4 + used++] =
          static_cast<int8_t>(dense_[row * columns_ + columns[at++]]);
    }
    if (used == 0) {
      position[0] = 1;
      return;
    }
    for (size_t k = used; k < 4; ++k) position[k] = position[used - 1];
  }

  std::vector<LaneRecord> Lane(size_t first_entry) {
    std::vector<LaneRecord> records;
    std::vector<size_t> columns[4];
    size_t at[4] = {}, first = 0;
    for (size_t i = 0; i < 4; ++i) columns[i] = Columns(first_entry + i);
    for (;;) {
      size_t next = columns_;
      for (size_t i = 0; i < 4; ++i) {
        if (at[i] < columns[i].size()) next = std::min(next, columns[i][at[i]]);
      }
      if (next == columns_) return records;
      const size_t earliest = std::max(first, next - std::min<size_t>(next, random_.Below(16)));
      first = std::min(earliest, first + 255);
      LaneRecord record = {first, {}, {}};
      for (size_t i = 0; i < 4; ++i) {
        FillEntry(first_entry + i, columns[i], random_.Below(8) == 0 ? random_.Below(4) : 4, record,
                  at[i]);
      }
      records.push_back(record);
    }
  }

  void AddTile(size_t tile) {
    std::vector<LaneRecord> lane[2] = {Lane(8 * tile), Lane(8 * tile + 4)};
    const size_t count = std::max(lane[0].size(), lane[1].size());
    size_t first[2] = {0, 0};
    for (size_t i = 0; i < count; ++i) {
      LaneRecord pair[2];
      for (size_t side = 0; side < 2; ++side) {
        if (i < lane[side].size()) {
          pair[side] = lane[side][i];
        } else {
          pair[side] = {first[side], {1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0}, {}};
        }
        out_.step.push_back(static_cast<uint8_t>(pair[side].first - first[side]));
        first[side] = pair[side].first;
        out_.value.insert(out_.value.end(), pair[side].value, pair[side].value + 16);
      }
      for (size_t k = 0; k < 16; ++k) {
        const int both = pair[0].position[k] | pair[1].position[k] << 4;
        out_.position.push_back(static_cast<uint8_t>(both));
      }
    }
    out_.start.push_back(out_.start.back() + static_cast<int32_t>(count));
  }

  Random& random_;
  size_t columns_;
  const std::vector<double>& dense_;
  const std::vector<char>& stored_;
  WindowSections out_;
};
