// From text to a YamlTree, through yaml-cpp's events. Its own node classes are not used: they would follow aliases, and
// lose duplicate keys.
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <map>
#include <optional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/yaml/yaml_tree.h"

namespace hud {
namespace {

YamlPlace PlaceOf(const YAML::Mark& mark) { return {mark.line + 1, mark.column + 1}; }

// Thrown through yaml-cpp to end its work; caught in ParseYaml.
struct Stopped {
  YamlPlace place;
  std::string why;
};

// Receives yaml-cpp's events. A stack of open lists and maps, as deep as kMaxYamlDepth: yaml-cpp recurses once for
// each, so ending it here also bounds its stack.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(YamlTree* tree) : tree_(tree) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0)
      throw Stopped{PlaceOf(mark), "a second document; write one document only, without '---' between"};
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Add(KindFor(YamlTree::Kind::kNone, mark, "?", anchor), mark, "");
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    tree_->AddFault(PlaceOf(mark), "an alias ('*name'); aliases are not taken: write the value itself");
    Add(YamlTree::Kind::kInvalid, mark, "");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& text) override {
    Add(KindFor(YamlTree::Kind::kScalar, mark, tag, anchor), mark, text);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(KindFor(YamlTree::Kind::kList, mark, tag, anchor), false, mark);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(KindFor(YamlTree::Kind::kMap, mark, tag, anchor), true, mark);
  }
  void OnSequenceEnd() override { open_.pop_back(); }
  void OnMapEnd() override { open_.pop_back(); }

 private:
  struct OpenNode {
    size_t node;
    bool is_map;
    bool has_key = false;
    std::string key;
    YamlPlace key_place;
    std::map<std::string, YamlPlace> keys;
  };

  // Anchors and tags change what a value means in ways that a reader of the file does not see.
  YamlTree::Kind KindFor(YamlTree::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (anchor != 0) {
      tree_->AddFault(PlaceOf(mark), "an anchor ('&name'); anchors are not taken: write the value where it is needed");
      return YamlTree::Kind::kInvalid;
    }
    if (!tag.empty() && tag != "?" && tag != "!") {
      tree_->AddFault(PlaceOf(mark), "a tag ('!name'); tags are not taken: write the plain value");
      return YamlTree::Kind::kInvalid;
    }
    return kind;
  }

  bool ExpectsKey() const { return !open_.empty() && open_.back().is_map && !open_.back().has_key; }

  void Add(YamlTree::Kind kind, const YAML::Mark& mark, const std::string& text) {
    if (ExpectsKey()) {
      TakeKey(kind, PlaceOf(mark), text);
    } else {
      NewNode(kind, PlaceOf(mark), text);
    }
  }

  void TakeKey(YamlTree::Kind kind, YamlPlace place, const std::string& text) {
    OpenNode& map = open_.back();
    if (kind == YamlTree::Kind::kNone) throw Stopped{place, "a value without a key; write 'key: value'"};
    map.has_key = true;
    map.key = text;
    map.key_place = place;
  }

  void Open(YamlTree::Kind kind, bool is_map, const YAML::Mark& mark) {
    const YamlPlace place = PlaceOf(mark);
    if (ExpectsKey()) throw Stopped{place, "a list or a map as a key; a key is a plain word"};
    if (open_.size() >= kMaxYamlDepth) {
      throw Stopped{place, absl::StrCat("more than ", kMaxYamlDepth,
                                        " lists and maps inside each other; no setting is that deep")};
    }
    const size_t node = NewNode(kind, place, "");
    open_.push_back({.node = node, .is_map = is_map, .key = {}, .key_place = {}, .keys = {}});
  }

  size_t NewNode(YamlTree::Kind kind, YamlPlace place, const std::string& text) {
    const size_t node = tree_->nodes.size();
    if (node >= kMaxYamlValues)
      throw Stopped{place, absl::StrCat("more than ", kMaxYamlValues, " values; split the file")};
    YamlTree::Node& added = tree_->nodes.emplace_back();
    added.kind = kind;
    added.place = place;
    added.text = text;
    if (!open_.empty()) Attach(node);
    return node;
  }

  void Attach(size_t node) {
    OpenNode& open = open_.back();
    YamlTree::Node& parent = tree_->nodes[open.node];
    if (open.is_map) {
      HUD_CHECK(open.has_key);
      open.has_key = false;
      const auto [first, is_new] = open.keys.emplace(open.key, open.key_place);
      if (!is_new) {
        tree_->AddFault(open.key_place, absl::StrCat("the key '", open.key, "' is there already, at line ",
                                                     first->second.line, "; keep one of them"));
        return;  // the first one counts; the node stays without a parent, out of sight
      }
      YamlTree::Node& child = tree_->nodes[node];
      if (child.kind == YamlTree::Kind::kNone) child.place = open.key_place;  // yaml-cpp says where the next token is
    }
    tree_->nodes[node].parent = open.node;
    tree_->nodes[node].number = parent.children.size();
    parent.children.push_back({open.is_map ? std::move(open.key) : "", open.key_place, node});
  }

  YamlTree* tree_;
  std::vector<OpenNode> open_;
  int documents_ = 0;
};

// yaml-cpp takes the byte 4 for the end of the text and replaces what is not UTF-8: neither must pass in silence. For a tab in
// the indentation it gives a different error each time, so we look for tabs ourselves.
std::optional<Stopped> FindDirt(std::string_view text) {
  YamlPlace place{1, 1};
  bool in_indentation = true;
  std::optional<YamlPlace> tab;  // in this line's indentation
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    size_t length = 1;
    if (byte >= 0x80) {
      length = byte >= 0xf0 && byte <= 0xf4 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc2 ? 2 : 0;
      bool whole = byte <= 0xf4 && length != 0 && i + length <= text.size();
      for (size_t k = 1; whole && k < length; ++k) whole = (static_cast<unsigned char>(text[i + k]) & 0xc0) == 0x80;
      if (!whole) return Stopped{place, "text that is not UTF-8; save the file as UTF-8"};
    } else if ((byte < 0x20 && byte != '\n' && byte != '\r' && byte != '\t') || byte == 0x7f) {
      return Stopped{place, absl::StrCat("a control character (byte ", static_cast<int>(byte), "); remove it")};
    }
    if (in_indentation && byte == '\t' && !tab) tab = place;
    if (in_indentation && byte != '\t' && byte != ' ') {
      const bool says_nothing = byte == '#' || byte == '\n' || byte == '\r';
      if (tab && !says_nothing) return Stopped{*tab, "a tab in the indentation; indent with blanks"};
      in_indentation = false;
    }
    i += length;
    ++place.column;
    if (byte == '\n') {
      place = {place.line + 1, 1};
      in_indentation = true;
      tab.reset();
    }
  }
  return std::nullopt;
}

// A value that YAML takes for something else unless it is quoted: "*.example.com" for an alias, "[::]:443" for a list.
struct Unquoted {
  YamlPlace place;
  std::string value;
};

bool LooksLikeIpv6(std::string_view text) {
  return std::count(text.begin(), text.end(), ':') >= 2 &&
         text.find_first_not_of("0123456789abcdefABCDEF:.%") == std::string_view::npos;
}

constexpr size_t kLongestAddress = 64;

std::optional<Unquoted> FindUnquoted(std::string_view line, int number) {
  char quote = 0;
  bool begins = false;  // a value may begin here
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote != 0) {
      if (c == quote) quote = 0;
      continue;
    }
    if (c == '#' && (i == 0 || line[i - 1] == ' ')) break;
    if (begins && (c == '"' || c == '\'')) {
      quote = c;
      begins = false;
      continue;
    }
    const size_t length = begins && c == '[' ? line.substr(i, kLongestAddress).find("]:") : std::string_view::npos;
    const bool address = length != std::string_view::npos && LooksLikeIpv6(line.substr(i + 1, length - 1));
    if (begins && (c == '*' || address)) {
      const size_t end = std::min(line.find_first_of(" ,]}\r", address ? i + length + 1 : i), line.size());
      return Unquoted{{number, static_cast<int>(i) + 1}, std::string(line.substr(i, end - i))};
    }
    if (c != ' ') begins = c == ':' || c == '[' || c == '{' || c == ',' || c == '-';
  }
  return std::nullopt;
}

// The first in the text: yaml-cpp complains of the second kind at the end of the file.
std::optional<Unquoted> FindFirstUnquoted(std::string_view text) {
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    if (std::optional<Unquoted> found = FindUnquoted(text.substr(0, end), number)) return found;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return std::nullopt;
}

// What is missing at the end of the file is missed on its last line.
YamlPlace Within(std::string_view text, YamlPlace place) {
  while (text.ends_with('\n') || text.ends_with('\r')) text.remove_suffix(1);
  const int last = 1 + static_cast<int>(std::count(text.begin(), text.end(), '\n'));
  if (place.line <= last) return place;
  const size_t begin = text.rfind('\n') == text.npos ? 0 : text.rfind('\n') + 1;
  return {last, static_cast<int>(text.size() - begin) + 1};
}

// Half a tree would only give faults that are not there: "listeners is missing".
void GiveUp(YamlTree* tree, YamlPlace place, std::string why) {
  tree->AddFault(place, std::move(why));
  tree->nodes.assign(1, {.kind = YamlTree::Kind::kInvalid, .place = place, .text = {}, .children = {}, .known = {}});
}

}  // namespace

void ParseYaml(std::string_view text, YamlTree* tree) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  if (text.size() > kMaxYamlBytes) {
    return GiveUp(tree, {1, 1},
                  absl::StrCat("larger than ", FormatByteSize(kMaxYamlBytes), "; this cannot be a configuration"));
  }
  if (const std::optional<Stopped> dirt = FindDirt(text)) return GiveUp(tree, dirt->place, dirt->why);
  try {
    // The mark of the end: without it a quote that is never closed would swallow the rest of the file in silence.
    std::istringstream stream(std::string(text) + "\n...\n");
    YAML::Parser parser(stream);
    TreeBuilder builder(tree);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const Stopped& stopped) {
    GiveUp(tree, stopped.place, stopped.why);
  } catch (const YAML::Exception& error) {
    const YamlPlace place = error.mark.is_null() ? YamlPlace{1, 1} : Within(text, PlaceOf(error.mark));
    if (error.msg == YAML::ErrorMsg::DOC_IN_SCALAR) {
      GiveUp(tree, place, "a quote that is not closed before here; look for the ' or \" that opens it");
    } else if (const std::optional<Unquoted> unquoted = FindFirstUnquoted(text)) {
      GiveUp(tree, unquoted->place,
             absl::StrCat(unquoted->value, " means something else in YAML; quote it: \"", unquoted->value, "\""));
    } else {
      GiveUp(tree, place,
             absl::StrCat("not YAML: ", error.msg, "; look at the indentation, colons, quotes and brackets near here"));
    }
  } catch (const std::exception& error) {
    GiveUp(tree, {1, 1}, absl::StrCat("cannot be read as YAML: ", error.what()));
  }
  if (tree->nodes.empty())
    tree->nodes.push_back({.kind = YamlTree::Kind::kMap, .place = {1, 1}, .text = {}, .children = {}, .known = {}});
}

}  // namespace hud
