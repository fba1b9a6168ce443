#include "core/os/secret_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace hud {
namespace {

TEST(SecretFile, WhoElseMayReadOrChangeIt) {
  struct Row {
    const char* name;
    FileRights file;
    const char* error;  // null: nobody
  };
  const ProcessIdentity us{998, {998, 2000}};
  const Row rows[] = {
      {"only its owner, who is us", {0600, 998, 998}, nullptr},
      {"only its owner may read, and is us", {0400, 998, 1000}, nullptr},
      {"root's alone (read before rights were given up)", {0600, 0, 0}, nullptr},
      {"root's, and our group may read", {0640, 0, 998}, nullptr},
      {"a Secret with fsGroup: root's, and a supplementary group of ours may read", {0440, 0, 2000}, nullptr},
      {"root's, and another group may read", {0640, 0, 997}, "group 997 (mode 0640), which is not this user's"},
      {"another's, and our group may read", {0640, 1000, 998}, "is not root's"},
      {"ours, and a group that others may be in", {0440, 998, 998}, "is not root's"},
      {"our group may write", {0660, 0, 998}, "can change it (mode 0660)"},
      {"our group may write and not read", {0420, 0, 998}, "can change it"},
      {"all may read", {0644, 0, 998}, "others can read or change it (mode 0644); run 'chmod 600 k'"},
      {"all may write", {0602, 0, 998}, "others can read or change it"},
      {"all may execute, which is no sense", {0601, 0, 998}, "others can read or change it"},
      {"another's alone", {0600, 1000, 998}, "belongs to user 1000; it must belong to this program's user (998) or to root"},
  };
  for (const Row& row : rows) {
    const std::string error = WhoElseMayUse(row.file, us, "k");
    if (row.error == nullptr) {
      EXPECT_EQ(error, "") << row.name;
    } else {
      EXPECT_THAT(error, ::testing::HasSubstr(row.error)) << row.name;
    }
  }
}

TEST(SecretFile, RootMayBeGivenTheFileOfTheUserThatAServiceRunsAs) {
  EXPECT_EQ(WhoElseMayUse({0600, 998, 998}, {0, {0}}, "k"), "");
  EXPECT_NE(WhoElseMayUse({0640, 998, 998}, {0, {0}}, "k"), "");
}

}  // namespace
}  // namespace hud
