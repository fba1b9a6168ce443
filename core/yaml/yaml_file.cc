// YamlDocument::Load: a file, whole and bounded.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/os/fd.h"
#include "core/yaml/yaml_tree.h"

namespace hud {
namespace {

// Empty if all is well; else what is wrong and what to do. Reads one byte more than the bound, so that Parse sees it.
std::string ReadWhole(const std::string& path, std::string* text) {
  // O_NONBLOCK: a fifo must not hang the start.
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) return absl::StrCat("cannot be opened: ", std::strerror(errno), "; check the path and who may read it");
  struct stat status {};
  if (fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode))
    return "is not a file; write the path of a YAML file";
  char buffer[16384];
  while (text->size() <= kMaxYamlBytes) {
    const ssize_t count = read(file.get(), buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::StrCat("cannot be read: ", std::strerror(errno));
    if (count == 0) return "";
    text->append(buffer, static_cast<size_t>(count));
  }
  return "";
}

}  // namespace

YamlDocument YamlDocument::Load(const std::string& path) {
  std::string text;
  const std::string error = ReadWhole(path, &text);
  if (error.empty()) return Parse(text, path);
  auto tree = std::make_unique<YamlTree>();
  tree->path = path;
  tree->AddFault({}, error);
  tree->nodes.push_back({.kind = YamlTree::Kind::kInvalid, .place = {}, .text = {}, .children = {}, .known = {}});
  return YamlDocument(std::move(tree));
}

}  // namespace hud
