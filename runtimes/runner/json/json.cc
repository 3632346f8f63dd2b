// SPDX-License-Identifier: Apache-2.0
#include "runner/json/json.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "runner/failure.h"
#include "runner/text/utf8.h"

namespace ssmrun {

// Recursive descent; the depth limit bounds the stack.
class JsonParser {
 public:
  JsonParser(std::string& text, std::vector<Json::Node>& nodes, const std::string& what)
      : text_(text), nodes_(nodes), what_(what) {}

  void parse() {
    if (text_.size() >= std::numeric_limits<uint32_t>::max()) fail("less than 4 GiB");
    skip_space();
    parse_value(0);
    skip_space();
    if (at_ < text_.size()) fail("nothing after the value");
  }

 private:
  [[noreturn]] void fail(const std::string& expected) const {
    BadInput(what_ + ": expected JSON with " + expected + " at byte " + std::to_string(at_) +
             (at_ < text_.size() ? "." : ", where the text ends.") +
             " The file is damaged: make or copy it again.");
  }

  bool more() const { return at_ < text_.size(); }
  char peek() const { return more() ? text_[at_] : '\0'; }

  void skip_space() {
    while (more() && (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t')) ++at_;
  }

  bool accept(char c) {
    if (!more() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  uint32_t add(JsonValue::Type type) {
    nodes_.push_back({type, static_cast<uint32_t>(at_), 0, 0});
    return static_cast<uint32_t>(nodes_.size() - 1);
  }

  void parse_value(size_t depth) {
    if (depth > kJsonDepth) fail("at most " + std::to_string(kJsonDepth) + " levels");
    switch (peek()) {
      case '{':
        return parse_object(depth);
      case '[':
        return parse_array(depth);
      case '"':
        return parse_string();
      case 't':
        return parse_word("true", JsonValue::kTrue);
      case 'f':
        return parse_word("false", JsonValue::kFalse);
      case 'n':
        return parse_word("null", JsonValue::kNull);
      default:
        return parse_number();
    }
  }

  void parse_word(std::string_view word, JsonValue::Type type) {
    add(type);
    if (text_.compare(at_, word.size(), word) != 0) fail("a value");
    at_ += word.size();
  }

  size_t digits() {
    const size_t begin = at_;
    while (more() && peek() >= '0' && peek() <= '9') ++at_;
    return at_ - begin;
  }

  void parse_number() {
    const size_t begin = at_;
    const uint32_t node = add(JsonValue::kNumber);
    accept('-');
    const bool zero = peek() == '0';
    const size_t count = digits();
    if (count == 0) fail("a value");
    if (zero && count > 1) fail("a number without leading zeros");
    if (accept('.') && digits() == 0) fail("digits after the point");
    if (accept('e') || accept('E')) {
      if (!accept('+')) accept('-');
      if (digits() == 0) fail("digits in the exponent");
    }
    nodes_[node].length = static_cast<uint32_t>(at_ - begin);
    // Digits of fewer than 300 places without an exponent are finite.
    const std::string_view digits = text_of(node);
    const bool plain = digits.size() < 300 && digits.find_first_of("eE") == digits.npos;
    if (!plain && !std::isfinite(std::strtod(std::string(digits).c_str(), nullptr))) {
      at_ = begin;
      fail("a number that a float can hold");
    }
  }

  uint32_t hex4() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      const bool digit = c >= '0' && c <= '9', lower = c >= 'a' && c <= 'f';
      if (!digit && !lower && !(c >= 'A' && c <= 'F')) fail("four hexadecimal digits");
      value = value << 4 | static_cast<uint32_t>(digit   ? c - '0'
                                                 : lower ? c - 'a' + 10
                                                         : c - 'A' + 10);
    }
    return value;
  }

  uint32_t escaped_character() {
    const uint32_t high = hex4();
    if (high >= 0xDC00 && high <= 0xDFFF) fail("a surrogate pair");
    if (high < 0xD800 || high > 0xDBFF) return high;
    if (!accept('\\') || !accept('u')) fail("the second half of a surrogate pair");
    const uint32_t low = hex4();
    if (low < 0xDC00 || low > 0xDFFF) fail("the second half of a surrogate pair");
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
  }

  // Unescaped text is never longer than what it is read from, so it is written over it.
  void parse_escape(std::string& scratch) {
    const char c = peek();
    ++at_;
    switch (c) {
      case '"':
      case '\\':
      case '/':
        scratch = c;
        return;
      case 'b':
        scratch = '\b';
        return;
      case 'f':
        scratch = '\f';
        return;
      case 'n':
        scratch = '\n';
        return;
      case 'r':
        scratch = '\r';
        return;
      case 't':
        scratch = '\t';
        return;
      case 'u':
        scratch.clear();
        AppendUtf8(scratch, escaped_character());
        return;
      default:
        --at_;
        fail("a known escape");
    }
  }

  void parse_string() {
    ++at_;
    const uint32_t node = add(JsonValue::kString);
    size_t to = at_;
    std::string scratch;
    while (true) {
      if (!more()) fail("the end of a string");
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') break;
      if (c < 0x20) fail("no control character in a string");
      if (c == '\\') {
        ++at_;
        parse_escape(scratch);
      } else {
        size_t length = 0;
        if (DecodeUtf8(text_, at_, &length) == kNoCharacter) fail("UTF-8 text");
        scratch.assign(text_, at_, length);
        at_ += length;
      }
      for (const char byte : scratch) text_[to++] = byte;
    }
    ++at_;
    nodes_[node].length = static_cast<uint32_t>(to - nodes_[node].begin);
  }

  void parse_array(size_t depth) {
    const uint32_t node = add(JsonValue::kArray);
    ++at_;
    uint32_t previous = 0;
    skip_space();
    if (accept(']')) return;
    do {
      skip_space();
      link(previous);
      previous = static_cast<uint32_t>(nodes_.size());
      parse_value(depth + 1);
      ++nodes_[node].length;
      skip_space();
    } while (accept(','));
    if (!accept(']')) fail("a comma or ]");
  }

  void parse_object(size_t depth) {
    const uint32_t node = add(JsonValue::kObject);
    ++at_;
    uint32_t previous = 0;
    std::vector<uint32_t> keys;
    skip_space();
    if (accept('}')) return;
    do {
      skip_space();
      link(previous);
      if (peek() != '"') fail("a key");
      const auto key = static_cast<uint32_t>(nodes_.size());
      keys.push_back(key);
      parse_string();
      skip_space();
      if (!accept(':')) fail("a colon");
      skip_space();
      previous = static_cast<uint32_t>(nodes_.size());
      nodes_[key].next = previous;
      parse_value(depth + 1);
      ++nodes_[node].length;
      skip_space();
    } while (accept(','));
    if (!accept('}')) fail("a comma or }");
    check_keys(keys);
  }

  void link(uint32_t previous) {
    if (previous != 0) nodes_[previous].next = static_cast<uint32_t>(nodes_.size());
  }

  std::string_view text_of(uint32_t node) const {
    return std::string_view(text_).substr(nodes_[node].begin, nodes_[node].length);
  }

  void check_keys(std::vector<uint32_t>& keys) const {
    const auto less = [&](uint32_t a, uint32_t b) { return text_of(a) < text_of(b); };
    std::sort(keys.begin(), keys.end(), less);
    for (size_t i = 1; i < keys.size(); ++i) {
      if (text_of(keys[i - 1]) == text_of(keys[i])) fail("every key once in the object that ends");
    }
  }

  std::string& text_;
  std::vector<Json::Node>& nodes_;
  const std::string& what_;
  size_t at_ = 0;
};

Json::Json(std::string text, const std::string& what) : text_(std::move(text)) {
  JsonParser(text_, nodes_, what).parse();
}

JsonValue::Type JsonValue::type() const { return document_->nodes_[node_].type; }

std::string_view JsonValue::text() const {
  const Json::Node& node = document_->nodes_[node_];
  if (node.type != kString && node.type != kNumber) return {};
  return std::string_view(document_->text_).substr(node.begin, node.length);
}

size_t JsonValue::size() const {
  return is(kArray) || is(kObject) ? document_->nodes_[node_].length : 0;
}

std::optional<uint64_t> JsonValue::unsigned_integer() const {
  const std::string_view digits = text();
  if (!is(kNumber) || digits.find_first_not_of("0123456789") != digits.npos) return {};
  uint64_t value = 0;
  for (const char c : digits) {
    const auto digit = static_cast<uint64_t>(c - '0');
    if (value > (std::numeric_limits<uint64_t>::max() - digit) / 10) return {};
    value = 10 * value + digit;
  }
  return value;
}

std::optional<int64_t> JsonValue::integer() const {
  const std::string_view written = text();
  if (!is(kNumber)) return {};
  const bool negative = written.front() == '-';
  constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  uint64_t value = 0;
  for (const char c : written.substr(negative ? 1 : 0)) {
    if (c < '0' || c > '9' || value > kMost / 10) return {};
    value = 10 * value + static_cast<uint64_t>(c - '0');
  }
  if (value > kMost) return {};
  return negative ? -static_cast<int64_t>(value) : static_cast<int64_t>(value);
}

std::optional<double> JsonValue::number() const {
  if (!is(kNumber)) return {};
  const double value = std::strtod(std::string(text()).c_str(), nullptr);
  if (!std::isfinite(value)) return {};
  return value;
}

JsonValue::Iterator JsonValue::begin() const {
  return Iterator(document_, size() == 0 ? 0 : node_ + 1, is(kObject));
}

JsonValue::Iterator JsonValue::end() const { return Iterator(document_, 0, is(kObject)); }

std::string_view JsonValue::Iterator::key() const {
  return object_ ? JsonValue(document_, node_).text() : std::string_view();
}

JsonValue JsonValue::Iterator::value() const {
  return JsonValue(document_, object_ ? document_->nodes_[node_].next : node_);
}

JsonValue::Iterator& JsonValue::Iterator::operator++() {
  const uint32_t value = object_ ? document_->nodes_[node_].next : node_;
  node_ = document_->nodes_[value].next;
  return *this;
}

std::optional<JsonValue> JsonValue::find(std::string_view key) const {
  if (!is(kObject)) return {};
  for (auto item = begin(); item != end(); ++item) {
    if (item.key() == key) return item.value();
  }
  return {};
}

void JsonValue::append_canonical(std::string& out, std::string_view without) const {
  switch (type()) {
    case kNull:
      out += "null";
      return;
    case kFalse:
      out += "false";
      return;
    case kTrue:
      out += "true";
      return;
    case kNumber:
      out += text();
      return;
    case kString:
      AppendJsonString(out, text());
      return;
    case kArray: {
      out += '[';
      for (auto item = begin(); item != end(); ++item) {
        if (item != begin()) out += ',';
        item.value().append_canonical(out, {});
      }
      out += ']';
      return;
    }
    case kObject: {
      // Bytes of UTF-8 sort as their characters do.
      std::vector<Iterator> items;
      for (auto item = begin(); item != end(); ++item) {
        if (without.empty() || item.key() != without) items.push_back(item);
      }
      std::sort(items.begin(), items.end(),
                [](const Iterator& a, const Iterator& b) { return a.key() < b.key(); });
      out += '{';
      for (size_t i = 0; i < items.size(); ++i) {
        if (i != 0) out += ',';
        AppendJsonString(out, items[i].key());
        out += ':';
        items[i].value().append_canonical(out, {});
      }
      out += '}';
      return;
    }
  }
}

std::string JsonValue::canonical(std::string_view without) const {
  std::string out;
  append_canonical(out, without);
  return out;
}

std::string JsonValue::shown() const {
  std::string text = canonical();
  constexpr size_t kMost = 40;
  if (text.size() <= kMost) return text;
  size_t cut = kMost;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;
  return text.substr(0, cut) + "...";
}

}  // namespace ssmrun
