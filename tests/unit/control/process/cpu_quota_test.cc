#include "control/process/cpu_quota.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

namespace hud {
namespace {

namespace fs = std::filesystem;

// A tree of files as /proc and /sys have them.
class CpuQuotaTest : public ::testing::Test {
 protected:
  std::optional<unsigned> Quota(const std::map<std::string, std::string>& files) {
    fs::remove_all(root_);
    for (const auto& [path, text] : files) {
      fs::create_directories(fs::path(root_ + path).parent_path());
      std::ofstream(root_ + path) << text;
    }
    const std::optional<unsigned> quota = CpuQuota(root_);
    fs::remove_all(root_);
    return quota;
  }
  const std::string root_ = ::testing::TempDir() + "hud_quota_" + std::to_string(::getpid());
  const std::string v2_mount_ = "31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
  const std::string v1_mount_ = "33 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
};

TEST_F(CpuQuotaTest, Version2) {
  const std::string service = "0::/system.slice/hudsucker.service\n";
  const std::string at = "/sys/fs/cgroup/system.slice/hudsucker.service/cpu.max";
  const auto with = [&](const std::string& max) {
    return Quota({{"/proc/self/cgroup", service}, {"/proc/self/mountinfo", v2_mount_}, {at, max}});
  };
  EXPECT_EQ(with("200000 100000\n"), 2u);
  EXPECT_EQ(with("150000 100000\n"), 2u) << "rounded up";
  EXPECT_EQ(with("5000 100000\n"), 1u);
  EXPECT_EQ(with("max 100000\n"), std::nullopt);
  EXPECT_EQ(with("nonsense\n"), std::nullopt);
  EXPECT_EQ(Quota({{"/proc/self/cgroup", service}, {"/proc/self/mountinfo", v2_mount_}}), std::nullopt);
}

TEST_F(CpuQuotaTest, TheLeastOfThoseAboveCounts) {
  EXPECT_EQ(Quota({{"/proc/self/cgroup", "0::/a/b\n"},
                   {"/proc/self/mountinfo", v2_mount_},
                   {"/sys/fs/cgroup/a/cpu.max", "300000 100000\n"},
                   {"/sys/fs/cgroup/a/b/cpu.max", "800000 100000\n"}}),
            3u);
}

TEST_F(CpuQuotaTest, InAContainerTheMountIsTheCgroupItself) {
  EXPECT_EQ(Quota({{"/proc/self/cgroup", "0::/\n"},
                   {"/proc/self/mountinfo", v2_mount_},
                   {"/sys/fs/cgroup/cpu.max", "400000 100000\n"}}),
            4u);
  EXPECT_EQ(Quota({{"/proc/self/cgroup", "4:cpu,cpuacct:/docker/abc\n"},
                   {"/proc/self/mountinfo", "33 31 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpuacct,cpu\n"},
                   {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "250000\n"},
                   {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}}),
            3u);
}

TEST_F(CpuQuotaTest, Version1) {
  const auto with = [&](const std::string& quota) {
    return Quota({{"/proc/self/cgroup", "11:cpuset:/x\n4:cpu,cpuacct:/web\n0::/unused\n"},
                  {"/proc/self/mountinfo", v1_mount_ + "34 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"},
                  {"/sys/fs/cgroup/cpu,cpuacct/web/cpu.cfs_quota_us", quota},
                  {"/sys/fs/cgroup/cpu,cpuacct/web/cpu.cfs_period_us", "50000\n"}});
  };
  EXPECT_EQ(with("100000\n"), 2u);
  EXPECT_EQ(with("-1\n"), std::nullopt);
}

TEST_F(CpuQuotaTest, WithoutCgroupsThereIsNone) { EXPECT_EQ(Quota({}), std::nullopt); }

}  // namespace
}  // namespace hud
