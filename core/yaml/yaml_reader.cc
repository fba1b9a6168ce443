#include "core/yaml/yaml_reader.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/yaml/yaml_tree.h"

namespace hud {
namespace {

using Kind = YamlTree::Kind;

// What the user wrote, safe and short enough to print.
std::string Quoted(std::string_view text) {
  constexpr size_t kMost = 120;
  const bool cut = text.size() > kMost;
  if (cut) {  // not inside a character
    size_t size = kMost;
    while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80) --size;
    text = text.substr(0, size);
  }
  return absl::StrCat("'", absl::Utf8SafeCHexEscape(absl::string_view(text.data(), text.size())), cut ? "…'" : "'");
}

std::string ListOf(std::span<const std::string_view> words, std::string_view last) {
  std::string list;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) absl::StrAppend(&list, i + 1 == words.size() ? std::string(last) : std::string(", "));
    absl::StrAppend(&list, "'", std::string(words[i]), "'");
  }
  return list;
}

bool HasControlCharacter(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

std::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kScalar:
      return "a single value";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a map";
    case Kind::kNone:
      return "nothing";
    case Kind::kInvalid:
      break;
  }
  return "something wrong";
}

YamlTree::Node& NodeOf(YamlTree* tree, size_t node) { return tree->nodes[node]; }

// Notes that `node` is not what was asked for. Says nothing of what has its error already.
void WrongKind(YamlTree* tree, size_t node, std::string_view wanted) {
  YamlTree::Node& found = NodeOf(tree, node);
  if (found.kind == Kind::kInvalid) return;
  const std::string key = tree->KeyPath(node);
  const std::string prefix = key.empty() ? std::string("this file") : absl::StrCat(key, ":");
  if (found.kind == Kind::kNone) {
    tree->AddFault(found.place,
                   absl::StrCat(prefix, " has no value; write ", std::string(wanted), ", or remove the key"), node);
  } else {
    tree->AddFault(found.place,
                   absl::StrCat(prefix, " is ", std::string(KindName(found.kind)), "; write ", std::string(wanted)), node);
  }
  found.kind = Kind::kInvalid;  // once is enough
}

struct Unit {
  std::string_view name;
  int64_t size;
};
constexpr Unit kDurationUnits[] = {
    {"d", 86'400'000'000'000},
    {"h", 3'600'000'000'000},
    {"m", 60'000'000'000},
    {"s", 1'000'000'000},
    {"ms", 1'000'000},
    {"us", 1'000},
    {"ns", 1},
};
constexpr Unit kByteUnits[] = {{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}};

// "1h30m": numbers, each with a unit, units from large to small. No overflow, nothing behind.
bool ParseWithUnits(std::string_view text, std::span<const Unit> units, int64_t* out) {
  int64_t sum = 0;
  size_t next_unit = 0;
  if (text.empty()) return false;
  while (!text.empty()) {
    uint64_t number;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return false;
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    const size_t name_size = std::min(text.find_first_of("0123456789"), text.size());
    while (next_unit < units.size() && units[next_unit].name != text.substr(0, name_size)) ++next_unit;
    if (next_unit == units.size()) return false;
    int64_t part;
    if (__builtin_mul_overflow(static_cast<int64_t>(number), units[next_unit].size, &part)) return false;
    if (__builtin_add_overflow(sum, part, &sum)) return false;
    text.remove_prefix(name_size);
    ++next_unit;
  }
  *out = sum;
  return true;
}

bool ParseInt64(std::string_view text, int64_t* out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && end == text.data() + text.size();
}

// Optimal string alignment: insertions, deletions, changes, swaps of neighbours.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) cost[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) cost[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, cost[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

// "maxBytes", "max-bytes" and "MAX_BYTES" are the same word.
std::string Folded(std::string_view word) {
  std::string folded;
  for (const char c : word) {
    if (c != '-' && c != '_' && c != ' ') folded += (c >= 'A' && c <= 'Z') ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return folded;
}

}  // namespace

std::string_view Nearest(std::string_view word, std::span<const std::string_view> known) {
  constexpr size_t kLongestWord = 64;
  if (word.size() > kLongestWord) return {};
  const std::string folded = Folded(word);
  std::string_view best;
  size_t best_distance = 0;
  for (const std::string_view candidate : known) {
    const size_t distance = EditDistance(folded, Folded(candidate));
    const size_t allowed = candidate.size() <= 4 ? 1 : candidate.size() <= 7 ? 2 : 3;
    if (distance <= allowed && distance < candidate.size() && (best.empty() || distance < best_distance)) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

bool ParseDuration(std::string_view text, Duration* out) {
  int64_t nanoseconds;
  if (!ParseWithUnits(text, kDurationUnits, &nanoseconds)) return false;
  *out = Duration(nanoseconds);
  return true;
}

std::string FormatDuration(Duration duration) {
  int64_t rest = duration.count();
  if (rest == 0) return "0s";
  std::string text = rest < 0 ? "-" : "";
  if (rest < 0) rest = -rest;
  for (const Unit& unit : kDurationUnits) {
    if (rest >= unit.size) absl::StrAppend(&text, rest / unit.size, std::string(unit.name));
    rest %= unit.size;
  }
  return text;
}

bool ParseByteSize(std::string_view text, size_t* out) {
  int64_t bytes;
  if (!ParseInt64(text, &bytes) && !ParseWithUnits(text, kByteUnits, &bytes)) return false;
  if (bytes < 0) return false;
  *out = static_cast<size_t>(bytes);
  return true;
}

std::string FormatByteSize(size_t bytes) {
  for (const Unit& unit : kByteUnits) {
    const auto size = static_cast<size_t>(unit.size);
    if (size > 1 && bytes >= size && bytes % size == 0) return absl::StrCat(bytes / size, std::string(unit.name));
  }
  return absl::StrCat(bytes);
}

// ---- YamlValue ------------------------------------------------------------------------------------------------------

YamlPlace YamlValue::place() const { return present_ ? NodeOf(tree_, node_).place : YamlPlace{}; }
std::string YamlValue::KeyPath() const { return present_ ? tree_->KeyPath(node_) : ""; }
bool YamlValue::IsMap() const { return present_ && NodeOf(tree_, node_).kind == Kind::kMap; }
bool YamlValue::IsList() const { return present_ && NodeOf(tree_, node_).kind == Kind::kList; }
bool YamlValue::IsScalar() const { return present_ && NodeOf(tree_, node_).kind == Kind::kScalar; }

YamlValue YamlValue::Get(std::string_view key) const {
  if (!present_) return {};
  YamlTree::Node& node = NodeOf(tree_, node_);
  if (node.kind != Kind::kMap) {
    WrongKind(tree_, node_, "a map, 'key: value'");
    return {};
  }
  node.visited = true;
  if (std::find(node.known.begin(), node.known.end(), key) == node.known.end()) node.known.emplace_back(key);
  for (const YamlTree::Child& child : node.children) {
    if (child.key == key) return YamlValue(tree_, child.node, true);
  }
  return {};
}

YamlValue YamlValue::Require(std::string_view key, std::string_view hint) const {
  const YamlValue value = Get(key);
  if (value || !IsMap()) return value;
  Error(absl::StrCat("'", std::string(key), "' is missing; add it", hint.empty() ? "" : ", ", std::string(hint)));
  return value;
}

std::vector<std::pair<std::string, YamlValue>> YamlValue::Entries() const {
  std::vector<std::pair<std::string, YamlValue>> entries;
  if (!present_) return entries;
  if (!IsMap()) {
    WrongKind(tree_, node_, "a map, 'key: value'");
    return entries;
  }
  for (const YamlTree::Child& child : NodeOf(tree_, node_).children) {
    entries.emplace_back(child.key, YamlValue(tree_, child.node, true));
  }
  return entries;
}

std::vector<YamlValue> YamlValue::Items() const {
  std::vector<YamlValue> items;
  if (!present_) return items;
  if (!IsList()) {
    WrongKind(tree_, node_, "a list, '[…]' or one '- ' a line");
    return items;
  }
  for (const YamlTree::Child& child : NodeOf(tree_, node_).children)
    items.push_back(YamlValue(tree_, child.node, true));
  return items;
}

std::vector<YamlValue> YamlValue::ItemsOrSelf() const {
  if (!present_) return {};
  return IsList() ? Items() : std::vector<YamlValue>{*this};
}

void YamlValue::Error(std::string_view what) const {
  if (!present_ || NodeOf(tree_, node_).kind == Kind::kInvalid) return;
  const std::string key = KeyPath();
  tree_->AddFault(place(), absl::StrCat(key, key.empty() ? "" : ": ", std::string(what)), node_);
}

bool YamlValue::HasErrors() const {
  if (!present_) return false;
  const auto is_within = [this](size_t node) {
    while (node != YamlTree::kNoParent && node != node_) node = NodeOf(tree_, node).parent;
    return node == node_;
  };
  return std::ranges::any_of(tree_->faults, [&](const YamlTree::Fault& fault) { return is_within(fault.node); });
}

bool YamlValue::ReadScalar(std::string_view* out) const {
  if (!present_) return false;
  if (!IsScalar()) {
    WrongKind(tree_, node_, "a single value");
    return false;
  }
  *out = NodeOf(tree_, node_).text;
  return true;
}

bool YamlValue::ReadString(std::string* out) const {
  std::string_view text;
  if (!ReadScalar(&text)) return false;
  if (text.empty()) {
    Error("is empty; write a value, or remove the key");
    return false;
  }
  if (HasControlCharacter(text)) {
    Error(absl::StrCat(Quoted(text), " holds a control character; remove it"));
    return false;
  }
  *out = text;
  return true;
}

bool YamlValue::ReadStrings(std::vector<std::string>* out) const {
  if (!present_) return false;
  std::vector<std::string> strings;
  bool all_right = IsScalar() || IsList();
  if (!all_right) WrongKind(tree_, node_, "one value or a list of them");
  if (!all_right) return false;
  for (const YamlValue& item : ItemsOrSelf()) all_right &= item.ReadString(&strings.emplace_back());
  if (all_right) *out = std::move(strings);
  return all_right;
}

bool YamlValue::ReadBool(bool* out) const { return ReadEnum(out, {{"true", true}, {"false", false}}); }

bool YamlValue::ReadInt64(int64_t* out, int64_t least, int64_t most) const {
  std::string_view text;
  if (!ReadScalar(&text)) return false;
  int64_t value;
  if (!ParseInt64(text, &value) || value < least || value > most) {
    Error(absl::StrCat(Quoted(text), " is not a whole number from ", least, " to ", most));
    return false;
  }
  *out = value;
  return true;
}

bool YamlValue::ReadNumber(double* out, double least, double most) const {
  std::string_view text;
  if (!ReadScalar(&text)) return false;
  double value;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  // Written so that what is not a number fails, too.
  if (error != std::errc() || end != text.data() + text.size() || !(value >= least && value <= most)) {
    Error(absl::StrCat(Quoted(text), " is not a number from ", least, " to ", most));
    return false;
  }
  *out = value;
  return true;
}

bool YamlValue::ReadDuration(Duration* out, Duration least, Duration most) const {
  std::string_view text;
  if (!ReadScalar(&text)) return false;
  Duration value;
  if (!ParseDuration(text, &value)) {
    int64_t number;
    if (ParseInt64(text, &number)) {
      Error(absl::StrCat(Quoted(text), " has no unit; write '", number, "s' for seconds (us, ms, s, m, h, d)"));
    } else {
      Error(absl::StrCat(Quoted(text), " is not a duration; write one like '200ms', '5s', '10m' or '1h30m'"));
    }
    return false;
  }
  if (value < least || value > most) {
    Error(absl::StrCat(Quoted(text), " is out of range; write from ", FormatDuration(least), " to ",
                       FormatDuration(most)));
    return false;
  }
  *out = value;
  return true;
}

bool YamlValue::ReadByteSize(size_t* out, size_t least, size_t most) const {
  std::string_view text;
  if (!ReadScalar(&text)) return false;
  size_t value;
  if (!ParseByteSize(text, &value)) {
    Error(absl::StrCat(Quoted(text), " is not a size in bytes; write one like '4096', '32KiB', '64MiB' or '1GiB'"));
    return false;
  }
  if (value < least || value > most) {
    Error(absl::StrCat(Quoted(text), " is out of range; write from ", FormatByteSize(least), " to ",
                       FormatByteSize(most)));
    return false;
  }
  *out = value;
  return true;
}

bool YamlValue::ReadAddress(SocketAddress* out) const {
  std::string_view text;
  if (!ReadScalar(&text)) return false;
  absl::StatusOr<SocketAddress> address = SocketAddress::Parse(text);
  if (!address.ok()) {
    const absl::string_view why = address.status().message();
    Error({why.data(), why.size()});
    return false;
  }
  *out = *address;
  return true;
}

bool YamlValue::ReadAddresses(std::vector<SocketAddress>* out) const {
  if (!present_) return false;
  if (!IsScalar() && !IsList()) {
    WrongKind(tree_, node_, "an address or a list of them");
    return false;
  }
  std::vector<SocketAddress> addresses;
  bool all_right = true;
  for (const YamlValue& item : ItemsOrSelf()) {
    SocketAddress address;
    if (!item.ReadAddress(&address)) {
      all_right = false;
    } else if (std::find(addresses.begin(), addresses.end(), address) != addresses.end()) {
      item.Error(absl::StrCat("'", address.ToString(), "' is in this list already; keep one of them"));
      all_right = false;
    } else {
      addresses.push_back(address);
    }
  }
  if (all_right && addresses.empty()) {
    Error("is an empty list; write an address, or remove the key");
    all_right = false;
  }
  if (all_right) *out = std::move(addresses);
  return all_right;
}

bool YamlValue::ReadWord(size_t* out, std::span<const std::string_view> words) const {
  std::string_view text;
  if (!ReadScalar(&text)) return false;
  const auto found = std::find(words.begin(), words.end(), text);
  if (found != words.end()) {
    *out = static_cast<size_t>(found - words.begin());
    return true;
  }
  const std::string_view near = Nearest(text, words);
  Error(absl::StrCat(Quoted(text), " is not known here; ",
                     near.empty() ? "" : absl::StrCat("did you mean '", std::string(near), "'? "), "write ",
                     ListOf(words, " or ")));
  return false;
}

// ---- YamlDocument ---------------------------------------------------------------------------------------------------

YamlDocument::YamlDocument(std::unique_ptr<YamlTree> tree) : tree_(std::move(tree)) {}
YamlDocument::~YamlDocument() = default;
YamlDocument::YamlDocument(YamlDocument&&) noexcept = default;
YamlDocument& YamlDocument::operator=(YamlDocument&&) noexcept = default;

YamlDocument YamlDocument::Parse(std::string_view text, std::string path) {
  auto tree = std::make_unique<YamlTree>();
  tree->path = std::move(path);
  ParseYaml(text, tree.get());
  if (YamlTree::Node& root = tree->nodes.front(); root.kind == Kind::kNone) root.kind = Kind::kMap;
  return YamlDocument(std::move(tree));
}

YamlValue YamlDocument::root() const { return YamlValue(tree_.get(), 0, true); }
const std::string& YamlDocument::path() const { return tree_->path; }
bool YamlDocument::HasErrors() const { return !tree_->faults.empty(); }

YamlValue YamlDocument::FindNearest(std::string_view key_path) const {
  size_t node = 0;
  for (std::string_view rest = key_path; !rest.empty();) {
    const std::vector<YamlTree::Child>& children = tree_->nodes[node].children;
    const bool is_list = tree_->nodes[node].kind == Kind::kList;
    const std::string_view step = rest.substr(0, std::min(rest.find_first_of(".[", 1), rest.size()));
    rest.remove_prefix(step.size());
    const auto child = std::ranges::find_if(children, [&](const YamlTree::Child& c) {
      if (!is_list) return c.key == (step.front() == '.' ? step.substr(1) : step);
      return step == "[" + std::to_string(tree_->nodes[c.node].number) + "]";
    });
    if (child == children.end()) break;
    node = child->node;
  }
  return YamlValue(tree_.get(), node, true);
}

YamlValue YamlDocument::Find(std::string_view key_path) const {
  const YamlValue nearest = FindNearest(key_path);
  return nearest.KeyPath() == key_path ? nearest : YamlValue();
}

std::vector<std::pair<std::string, int>> YamlDocument::Lines() const {
  std::vector<std::pair<std::string, int>> lines;
  for (size_t i = 1; i < tree_->nodes.size(); ++i) lines.emplace_back(tree_->KeyPath(i), tree_->nodes[i].place.line);
  return lines;
}

absl::Status YamlDocument::Finish() {
  for (size_t i = 0; i < tree_->nodes.size(); ++i) {
    YamlTree::Node& node = tree_->nodes[i];
    if (!node.visited) continue;
    node.visited = false;  // a second Finish says the same, not more
    const std::vector<std::string_view> known(node.known.begin(), node.known.end());
    for (const YamlTree::Child& child : node.children) {
      if (std::find(known.begin(), known.end(), child.key) != known.end()) continue;
      const std::string_view near = Nearest(child.key, known);
      const std::string path = tree_->KeyPath(i);
      tree_->AddFault(child.key_place,
                      absl::StrCat(path, path.empty() ? "" : ": ", "unknown key ", Quoted(child.key), "; ",
                                   near.empty() ? absl::StrCat("known here: ", ListOf(known, ", "))
                                                : absl::StrCat("did you mean '", std::string(near), "'?")));
    }
  }
  if (tree_->faults.empty()) return absl::OkStatus();
  std::stable_sort(tree_->faults.begin(), tree_->faults.end(), [](const YamlTree::Fault& a, const YamlTree::Fault& b) {
    return std::pair(a.place.line, a.place.column) < std::pair(b.place.line, b.place.column);
  });
  std::string all;
  for (const YamlTree::Fault& fault : tree_->faults) {
    absl::StrAppend(&all, all.empty() ? "" : "\n", tree_->path, ":");
    if (fault.place.line > 0) absl::StrAppend(&all, fault.place.line, ":", fault.place.column, ":");
    absl::StrAppend(&all, " ", fault.message);
  }
  if (tree_->faults_left_out > 0)
    absl::StrAppend(&all, "\n", tree_->path, ": and ", tree_->faults_left_out, " more errors");
  return absl::InvalidArgumentError(all);
}

// ---- YamlTree -------------------------------------------------------------------------------------------------------

void YamlTree::AddFault(YamlPlace place, std::string message, size_t node) {
  if (faults.size() >= kMaxYamlErrors) {
    ++faults_left_out;
  } else {
    faults.push_back({place, std::move(message), node});
  }
}

std::string YamlTree::KeyPath(size_t node) const {
  const size_t parent = nodes[node].parent;
  if (parent == kNoParent) return "";
  const std::string above = KeyPath(parent);  // as deep as kMaxYamlDepth
  const Child& child = nodes[parent].children[nodes[node].number];
  if (nodes[parent].kind == Kind::kList || child.key.empty()) return absl::StrCat(above, "[", nodes[node].number, "]");
  const std::string quoted = Quoted(child.key);
  return absl::StrCat(above, above.empty() ? "" : ".", quoted.substr(1, quoted.size() - 2));
}

}  // namespace hud
