// What a parsed document is in memory; private to core/yaml.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/yaml/yaml_reader.h"

namespace hud {

struct YamlTree {
  // kNone: an empty value ("key:" or "~"). kInvalid: its error is noted already, so that reading it says nothing more.
  enum class Kind : uint8_t { kNone, kInvalid, kScalar, kList, kMap };
  static constexpr size_t kNoParent = ~size_t{0};

  struct Child {
    std::string key;  // of a map
    YamlPlace key_place;
    size_t node;
  };
  struct Node {
    Kind kind = Kind::kNone;
    YamlPlace place;
    std::string text;             // of a scalar
    std::vector<Child> children;  // of a list or a map
    size_t parent = kNoParent;
    size_t number = 0;               // among the parent's children
    std::vector<std::string> known;  // keys that were asked for
    bool visited = false;            // as a map: its other keys are unknown
  };
  struct Fault {
    YamlPlace place;
    std::string message;
    size_t node = kNoParent;  // that it is about; kNoParent: of the text as a whole
  };

  std::string path;
  std::vector<Node> nodes;  // nodes[0] is the root, if there is one
  std::vector<Fault> faults;
  size_t faults_left_out = 0;

  void AddFault(YamlPlace place, std::string message, size_t node = kNoParent);
  std::string KeyPath(size_t node) const;
};

// Fills tree->nodes from the text; what is wrong becomes faults. Never throws.
void ParseYaml(std::string_view text, YamlTree* tree);

}  // namespace hud
