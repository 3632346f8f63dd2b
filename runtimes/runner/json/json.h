// SPDX-License-Identifier: Apache-2.0
// JSON as RFC 8259 defines it, read strictly from untrusted bytes and written in one piece.
//
// Refused: nesting beyond kJsonDepth, a key twice in an object, text that is not UTF-8, half of a
// surrogate pair, control characters in strings, NaN, Infinity and numbers beyond them, anything
// after the value.
#ifndef SSMPRESS_RUNNER_JSON_H_
#define SSMPRESS_RUNNER_JSON_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ssmrun {

constexpr size_t kJsonDepth = 100;  // real files have fewer than 20 levels

class Json;

// One value of a document; valid as long as the document lives.
class JsonValue {
 public:
  enum Type : uint8_t { kNull, kFalse, kTrue, kNumber, kString, kArray, kObject };

  Type type() const;
  bool is(Type wanted) const { return type() == wanted; }
  // Unescaped text of a string, or a number as it is written; empty for other types.
  std::string_view text() const;
  // A number that is written as an integer and fits.
  std::optional<int64_t> integer() const;
  std::optional<uint64_t> unsigned_integer() const;
  std::optional<double> number() const;
  // Elements of an array, or values of an object; with key() for the latter.
  size_t size() const;
  std::optional<JsonValue> find(std::string_view key) const;
  // What a message shows: the value as JSON, cut after 40 bytes.
  std::string shown() const;
  // The value as JSON: sorted keys, no whitespace, non-ASCII characters as they are, numbers as
  // they are written. `without` is a key of the outermost object that is left out.
  std::string canonical(std::string_view without = {}) const;

  class Iterator {
   public:
    Iterator(const Json* document, uint32_t node, bool object)
        : document_(document), node_(node), object_(object) {}
    std::string_view key() const;
    JsonValue value() const;
    JsonValue operator*() const { return value(); }
    Iterator& operator++();
    bool operator!=(const Iterator& other) const { return node_ != other.node_; }

   private:
    const Json* document_;
    uint32_t node_;
    bool object_;
  };
  Iterator begin() const;
  Iterator end() const;

 private:
  friend class Json;
  JsonValue(const Json* document, uint32_t node) : document_(document), node_(node) {}
  void append_canonical(std::string& out, std::string_view without) const;
  const Json* document_;
  uint32_t node_;
};

class Json {
 public:
  // Throws a Failure of kBadInput that begins with `what`, names the byte and what is wrong there.
  Json(std::string text, const std::string& what);
  Json(const Json&) = delete;
  Json& operator=(const Json&) = delete;
  JsonValue root() const { return JsonValue(this, 0); }

 private:
  friend class JsonValue;
  friend class JsonParser;
  struct Node {
    JsonValue::Type type;
    uint32_t begin, length;  // strings and numbers: of text_; arrays and objects: length in values
    uint32_t next;           // the sibling after it, or 0; a key's is its value
  };
  std::string text_;  // strings are unescaped in place
  std::vector<Node> nodes_;
};

// Appends text, which is UTF-8, as a JSON string in its quotes: only what must be is escaped.
void AppendJsonString(std::string& out, std::string_view text);

// Appends JSON to a string. Commas are placed by the writer; the caller balances begin and end.
class JsonWriter {
 public:
  JsonWriter& begin_object() { return open('{'); }
  JsonWriter& end_object() { return close('}'); }
  JsonWriter& begin_array() { return open('['); }
  JsonWriter& end_array() { return close(']'); }
  JsonWriter& key(std::string_view name);
  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(double number);  // null if it is not finite
  JsonWriter& value(int64_t number);
  JsonWriter& value(uint64_t number);
  JsonWriter& value(int number) { return value(int64_t{number}); }
  JsonWriter& value(bool truth);
  JsonWriter& null();
  JsonWriter& raw(std::string_view json);
  template <class T>
  JsonWriter& value(const std::optional<T>& maybe) {
    return maybe ? value(*maybe) : null();
  }
  template <class T>
  JsonWriter& value(const std::vector<T>& list) {
    begin_array();
    for (const T& item : list) value(item);
    return end_array();
  }
  template <class T>
  JsonWriter& field(std::string_view name, const T& content) {
    return key(name).value(content);
  }
  const std::string& text() const { return text_; }

 private:
  JsonWriter& open(char bracket);
  JsonWriter& close(char bracket);
  void separate();
  std::string text_;
  bool first_ = true;
};

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_JSON_H_
