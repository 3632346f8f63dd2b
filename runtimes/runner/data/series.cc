// SPDX-License-Identifier: Apache-2.0
#include "runner/data/series.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "runner/failure.h"
#include "runner/files.h"

namespace ssmrun {
namespace {

constexpr uint64_t kFileLimit = uint64_t{1} << 30;

std::string Shortened(const std::string& text) {
  return text.size() <= 40 ? text : text.substr(0, 40) + "...";
}

// Fields of a CSV file: commas, quotes around fields and doubled inside them, \n or \r\n.
class Csv {
 public:
  Csv(const std::string& text, const std::string& path) : text_(text), path_(path) {}

  // False at the end. Empty lines are left out.
  bool next(std::vector<std::string>& fields) {
    do {
      if (at_ >= text_.size()) return false;
      line_ = lines_ + 1;
      read(fields);
    } while (fields.size() == 1 && fields[0].empty());
    return true;
  }
  std::string where() const { return path_ + ", line " + std::to_string(line_) + ": "; }

 private:
  void read(std::vector<std::string>& fields) {
    fields.assign(1, "");
    bool quoted = false;
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '\n') ++lines_;
      if (quoted) {
        if (c != '"') {
          fields.back() += c;
        } else if (at_ + 1 < text_.size() && text_[at_ + 1] == '"') {
          fields.back() += text_[++at_];
        } else {
          quoted = false;
        }
      } else if (c == '"' && fields.back().empty()) {
        quoted = true;
      } else if (c == ',') {
        fields.emplace_back();
      } else if (c == '\n') {
        ++at_;
        return;
      } else if (c != '\r' || at_ + 1 == text_.size() || text_[at_ + 1] != '\n') {
        fields.back() += c;
      }
    }
    if (quoted) BadInput(where() + "expected the end of a quoted field; the file ends. Repair it.");
  }

  const std::string& text_;
  const std::string& path_;
  size_t at_ = 0, line_ = 0, lines_ = 0;
};

std::string Stripped(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r"), end = text.find_last_not_of(" \t\r");
  return begin == text.npos ? "" : text.substr(begin, end - begin + 1);
}

double ReadNumber(const std::string& field, const std::string& where) {
  const std::string text = Stripped(field);
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const bool plain = text.find_first_not_of("0123456789+-.eE") == text.npos;
  if (text.empty() || *end != '\0' || !plain || !std::isfinite(value)) {
    BadInput(where + "expected a finite number; got \"" + Shortened(field) +
             "\". Fill the gaps, or leave the rows out.");
  }
  return value;
}

}  // namespace

std::vector<float> ReadSeries(const std::string& path, const Variates& variates) {
  std::string file = ReadFile(path, kFileLimit);
  if (file.rfind("\xEF\xBB\xBF", 0) == 0) file.erase(0, 3);
  Csv csv(file, path);
  std::vector<std::string> heading, fields;
  if (!csv.next(heading)) BadInput(path + ": expected a heading and rows of numbers; got nothing.");
  for (std::string& name : heading) name = Stripped(name);
  std::vector<size_t> places;
  for (const std::string& name : variates.names) {
    if (std::count(heading.begin(), heading.end(), name) != 1) {
      BadInput(path + ": expected one column named \"" + name + "\", which the model forecasts; " +
               "the heading has none, or several. Rename the columns.");
    }
    const auto found = std::find(heading.begin(), heading.end(), name);
    places.push_back(static_cast<size_t>(found - heading.begin()));
  }
  std::vector<float> series;
  while (csv.next(fields)) {
    if (fields.size() != heading.size()) {
      BadInput(csv.where() + "expected " + std::to_string(heading.size()) +
               " fields as in the heading; got " + std::to_string(fields.size()) +
               ". Repair the line.");
    }
    for (size_t i = 0; i < places.size(); ++i) {
      const double value = ReadNumber(fields[places[i]], csv.where());
      series.push_back(static_cast<float>((value - variates.mean[i]) / variates.std[i]));
    }
  }
  return series;
}

}  // namespace ssmrun
