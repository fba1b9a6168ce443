// Typed values out of a YAML file. All errors are collected, each as "path:line:column: key: what, and what to do", so
// that one run tells the operator everything. Absent keys leave the caller's default alone.
//
//   YamlDocument document = YamlDocument::Load("/etc/hudsucker/hudsucker.yaml");
//   YamlValue root = document.root();
//   root.Get("workers").ReadInteger(&workers, 1, 64);
//   for (YamlValue listener : root.Require("listeners").Items()) {
//     listener.Require("bind").ReadAddresses(&bind);
//   }
//   absl::Status status = document.Finish();  // all errors; also the keys that nobody asked for
//
// The YAML taken is the part that has one meaning: maps, lists, scalars, one document. Anchors, aliases, tags,
// duplicate keys, control characters and text that is not UTF-8 are errors; size, depth and the number of values are
// bounded. The library behind it (yaml-cpp) throws: it is confined to one function of yaml_parse.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/base/types.h"
#include "core/net/address.h"

namespace hud {

struct YamlTree;  // yaml_tree.h

// EverythingIsBounded.
inline constexpr size_t kMaxYamlBytes = 1 << 20;
inline constexpr size_t kMaxYamlValues = 100'000;
inline constexpr int kMaxYamlDepth = 32;
inline constexpr size_t kMaxYamlErrors = 100;  // more are counted

// Lines and columns begin at 1. Line 0: nowhere in the file (a default, an option).
struct YamlPlace {
  int line = 0;
  int column = 0;
};

// A value of a document, or the absence of one: a handle, valid as long as its document. Reading what is absent does
// nothing and returns false; so does reading what is wrong, once its error is noted.
class YamlValue {
 public:
  YamlValue() = default;

  explicit operator bool() const { return present_; }
  YamlPlace place() const;
  // "listeners[0].hello": for messages.
  std::string KeyPath() const;

  bool IsMap() const;
  bool IsList() const;
  bool IsScalar() const;

  // The value of a key of this map, and from now on a key that is known here. Error if this is not a map.
  YamlValue Get(std::string_view key) const;
  // The same; its absence is an error, unless this whole map is absent. `hint` is put behind it ("like 10.0.0.1:443").
  YamlValue Require(std::string_view key, std::string_view hint = "") const;
  // Of a map with keys of the user's own choice: all of them, in the file's order.
  std::vector<std::pair<std::string, YamlValue>> Entries() const;
  // Of a list. Error if this is not one.
  std::vector<YamlValue> Items() const;
  // Of a list, or this value itself: `bind: A` and `bind: [A, B]`.
  std::vector<YamlValue> ItemsOrSelf() const;

  // Is something known to be wrong with it, or within it?
  bool HasErrors() const;
  // Notes an error at this value's place; for the checks of the caller's own. `what` says what is wrong and what to do.
  void Error(std::string_view what) const;

  // Each writes `*out` and returns true only for a value that is right.
  bool ReadString(std::string* out) const;                // not empty, no control characters
  bool ReadStrings(std::vector<std::string>* out) const;  // one or a list of them
  bool ReadBool(bool* out) const;                         // true or false
  template <typename Integer>
  bool ReadInteger(Integer* out, int64_t least, int64_t most) const {
    int64_t value;
    if (!ReadInt64(&value, least, most)) return false;
    *out = static_cast<Integer>(value);
    return true;
  }
  bool ReadNumber(double* out, double least, double most) const;
  // "500us", "200ms", "5s", "10m", "1h", "1d", "1h30m".
  bool ReadDuration(Duration* out, Duration least, Duration most) const;
  // "4096", "32KiB", "64MiB", "1GiB".
  bool ReadByteSize(size_t* out, size_t least, size_t most) const;
  bool ReadAddress(SocketAddress* out) const;                 // numeric, with a port, or unix:
  bool ReadAddresses(std::vector<SocketAddress>* out) const;  // one or a list of them, none twice
  template <typename Enum>
  bool ReadEnum(Enum* out, std::initializer_list<std::pair<std::string_view, Enum>> names) const {
    return ReadOneOf(out, std::span(names.begin(), names.size()));
  }
  template <typename Enum, size_t n>
  bool ReadEnum(Enum* out, const std::pair<std::string_view, Enum> (&names)[n]) const {
    return ReadOneOf(out, std::span<const std::pair<std::string_view, Enum>>(names));
  }
  // The text of a scalar as it is written, for grammars of the caller's own. Error if this is not a scalar.
  bool ReadScalar(std::string_view* out) const;

 private:
  friend class YamlDocument;
  YamlValue(YamlTree* tree, size_t node, bool present) : tree_(tree), node_(node), present_(present) {}

  template <typename Enum>
  bool ReadOneOf(Enum* out, std::span<const std::pair<std::string_view, Enum>> names) const {
    std::vector<std::string_view> words;
    for (const auto& [word, value] : names) words.push_back(word);
    size_t chosen;
    if (!ReadWord(&chosen, words)) return false;
    *out = names[chosen].second;
    return true;
  }
  bool ReadInt64(int64_t* out, int64_t least, int64_t most) const;
  bool ReadWord(size_t* out, std::span<const std::string_view> words) const;

  YamlTree* tree_ = nullptr;
  size_t node_ = 0;
  bool present_ = false;
};

class YamlDocument {
 public:
  // Neither fails: what is wrong is among the errors, and root() is then absent or partial. `path` is for messages.
  static YamlDocument Parse(std::string_view text, std::string path);
  static YamlDocument Load(const std::string& path);
  ~YamlDocument();
  YamlDocument(YamlDocument&&) noexcept;
  YamlDocument& operator=(YamlDocument&&) noexcept;

  // The top of the document; an empty document is an empty map.
  YamlValue root() const;
  const std::string& path() const;
  bool HasErrors() const;
  // The value at a path as KeyPath() writes it ("listeners[0].bind"), or the nearest around it; what is written without a list is its
  // own element 0. Find: none if it is not there itself. Neither makes a key known.
  YamlValue FindNearest(std::string_view key_path) const;
  YamlValue Find(std::string_view key_path) const;
  // The line of every value, by its path; without the root.
  std::vector<std::pair<std::string, int>> Lines() const;

  // To be called last: every key of a visited map that nobody asked for is an error, too. All errors in the order of
  // the file, one a line; OK if there are none.
  absl::Status Finish();

 private:
  explicit YamlDocument(std::unique_ptr<YamlTree> tree);
  std::unique_ptr<YamlTree> tree_;
};

// "5s" and its like, for options of the command line; false if it is none. Digits and units only, no sign.
bool ParseDuration(std::string_view text, Duration* out);
// The shortest such text: "90s" is "1m30s".
std::string FormatDuration(Duration duration);
bool ParseByteSize(std::string_view text, size_t* out);
std::string FormatByteSize(size_t bytes);
// The known word that a mistyped one probably means; empty if none is near.
std::string_view Nearest(std::string_view word, std::span<const std::string_view> known);

}  // namespace hud
