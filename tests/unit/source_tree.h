// Where the repository is, for tests that read a file of it. Not by __FILE__, which ccache may make relative to another
// folder: the build folders are inside the repository, so it is looked for upwards from the program that runs.
#pragma once

#include <filesystem>

namespace hud {

inline std::filesystem::path SourceTree() {
  std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe");
  while (folder != folder.root_path() && !std::filesystem::exists(folder / "core" / "CMakeLists.txt")) {
    folder = folder.parent_path();
  }
  return folder;
}

}  // namespace hud
