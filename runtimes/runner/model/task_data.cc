// SPDX-License-Identifier: Apache-2.0
#include "runner/model/task_data.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "runner/files.h"
#include "runner/json/json.h"

namespace ssmrun {
namespace {

constexpr uint64_t kFileLimit = uint64_t{1} << 30;
constexpr size_t kLineLimit =
    64 << 20;                        // bytes of a labelled text; as JSON it takes 8 times as much
constexpr size_t kWindowBatch = 64;  // per call of a forecaster, as evaluate.py

std::string Shortened(const std::string& text) {
  return text.size() <= 40 ? text : text.substr(0, 40) + "...";
}

LabelledText ReadLine(const JsonValue& row, const std::string& where, const Task& task,
                      const Encode& encode) {
  const auto label = row.find("label"), text = row.find("text"), tokens = row.find("tokens");
  const bool named = label && (label->is(JsonValue::kString) || label->integer());
  if (!named || (text ? !text->is(JsonValue::kString) : !tokens)) {
    BadInput(where + "expected `label` (a string or an integer) and `text` or `tokens`; got " +
             row.shown() + ". Rename the keys.");
  }
  const auto found = std::find(task.classes.begin(), task.classes.end(), label->text());
  if (found == task.classes.end()) {
    BadInput(where + "expected a label among the model's classes (config, task.classes); got " +
             label->shown() + ".");
  }
  LabelledText result{{}, static_cast<size_t>(found - task.classes.begin())};
  if (text) {
    result.tokens = encode(text->text(), where + "text");
  } else {
    for (const JsonValue token : *tokens) {
      if (!token.integer())
        BadInput(where + "tokens: expected integers; got " + token.shown() + ".");
      result.tokens.push_back(*token.integer());
    }
  }
  const auto most = static_cast<size_t>(task.max_length);
  if (result.tokens.size() > most) result.tokens.resize(most);
  if (result.tokens.empty()) BadInput(where + "expected a text; got an empty one.");
  return result;
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

std::vector<LabelledText> ReadLabelled(const std::string& path, const Task& task,
                                       const Encode& encode, uint64_t limit) {
  const std::string file = ReadFile(path, kFileLimit);
  std::vector<LabelledText> texts;
  size_t line = 0;
  for (size_t begin = 0; begin < file.size() && (limit == 0 || texts.size() < limit);) {
    const size_t end = std::min(file.find('\n', begin), file.size());
    const std::string row = file.substr(begin, end - begin);
    const std::string where = path + ", line " + std::to_string(++line);
    begin = end + 1;
    if (row.size() > kLineLimit) {
      BadInput(where + ": expected at most " + std::to_string(kLineLimit) +
               " bytes; it has more. Write one text per line.");
    }
    if (row.find_first_not_of(" \t\r") == row.npos) continue;
    const Json document(row, where);
    texts.push_back(ReadLine(document.root(), where + ": ", task, encode));
  }
  if (texts.empty()) BadInput(path + ": expected at least one labelled text; got none.");
  return texts;
}

std::vector<float> ReadSeries(const std::string& path, const Task& task) {
  std::string file = ReadFile(path, kFileLimit);
  if (file.rfind("\xEF\xBB\xBF", 0) == 0) file.erase(0, 3);
  Csv csv(file, path);
  std::vector<std::string> heading, fields;
  if (!csv.next(heading)) BadInput(path + ": expected a heading and rows of numbers; got nothing.");
  for (std::string& name : heading) name = Stripped(name);
  std::vector<size_t> places;
  for (const std::string& name : task.variates) {
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
      series.push_back(static_cast<float>((value - task.mean[i]) / task.std[i]));
    }
  }
  return series;
}

Accuracy EvaluateAccuracy(Model& model, const std::vector<LabelledText>& texts) {
  Accuracy result{0, {}};
  for (const LabelledText& text : texts) {
    const std::vector<float> logits = model.classify(text.tokens);
    const bool finite =
        std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); });
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    result.right.push_back(finite && static_cast<size_t>(best) == text.label);
  }
  const auto right = std::count(result.right.begin(), result.right.end(), true);
  result.accuracy = static_cast<double>(right) / static_cast<double>(texts.size());
  return result;
}

ForecastError EvaluateForecast(Model& model, const std::vector<float>& series,
                               const std::string& path, uint64_t limit) {
  const Task& task = model.interface().task;
  const size_t variates = task.variates.size();
  const auto lookback = static_cast<size_t>(task.lookback);
  const auto horizon = static_cast<size_t>(task.horizon);
  const size_t steps = series.size() / variates;
  if (steps < lookback + horizon) {
    BadInput(path + ": expected at least " + std::to_string(lookback + horizon) +
             " time steps for one window; got " + std::to_string(steps) +
             ". Give a longer series.");
  }
  size_t count = steps - lookback - horizon + 1;
  if (limit > 0) count = std::min<size_t>(count, limit);
  ForecastError result{0, 0, count, count * horizon * variates};
  for (size_t first = 0; first < count; first += kWindowBatch) {
    const size_t batch = std::min(kWindowBatch, count - first);
    std::vector<float> inputs;
    for (size_t i = first; i < first + batch; ++i) {
      const auto begin = series.begin() + static_cast<ptrdiff_t>(i * variates);
      inputs.insert(inputs.end(), begin, begin + static_cast<ptrdiff_t>(lookback * variates));
    }
    const std::vector<float> forecast = model.forecast(inputs);
    for (size_t i = 0; i < batch; ++i) {
      const float* target = series.data() + (first + i + lookback) * variates;
      double squared = 0, absolute = 0;
      for (size_t j = 0; j < horizon * variates; ++j) {
        const double difference = static_cast<double>(forecast[i * horizon * variates + j]) -
                                  static_cast<double>(target[j]);
        squared += difference * difference;
        absolute += std::abs(difference);
      }
      result.mse += squared;
      result.mae += absolute;
    }
  }
  result.mse /= static_cast<double>(result.predictions);
  result.mae /= static_cast<double>(result.predictions);
  return result;
}

}  // namespace ssmrun
