#include "control/config/reloader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>

#include "control/config/beacon_keys_file.h"

namespace hud {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* kKeyOfN1 = "0101010101010101010101010101010101010101010101010101010101010101";
constexpr const char* kKeyOfN2 = "0202020202020202020202020202020202020202020202020202020202020202";

class ReloadTest : public ::testing::Test {
 protected:
  ReloadTest() {
    char name[] = "/tmp/hud_reload_XXXXXX";
    EXPECT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
  }
  ~ReloadTest() override {
    for (const char* file : {"/hudsucker.yaml", "/beacon.keys"}) ::unlink((directory_ + file).c_str());
    ::rmdir(directory_.c_str());
  }

  std::string config_path() const { return directory_ + "/hudsucker.yaml"; }
  std::string keys_path() const { return directory_ + "/beacon.keys"; }

  void WriteConfig(const std::string& pools, const std::string& bind = "127.0.0.1:4443", const std::string& more = "") {
    std::ofstream(config_path()) << "listeners: [{name: tls, bind: \"" << bind << "\", default_pool: web}]\n"
                                 << "pools:\n" << pools << "beacons: {bind: \"127.0.0.1:9999\", keys: " << keys_path()
                                 << "}\n" << more;
  }
  void WriteKeys(const std::string& text, mode_t mode = 0600) {
    std::ofstream(keys_path()) << text;
    ::chmod(keys_path().c_str(), mode);
  }
  static std::string Key(const std::string& node, const std::string& hex) {
    return "node=" + node + " key=" + hex + " pools=* addresses=*\n";
  }

  // As a start loads it.
  LoadedConfiguration First() const { return {*LoadConfiguration(config_path()), *LoadBeaconKeys(keys_path())}; }

  std::string directory_;
};

constexpr const char* kOnePool = "  - {name: web, nodes: [{name: n1, address: \"10.0.0.1:443\"}]}\n";

TEST_F(ReloadTest, SaysWhatChanged) {
  WriteConfig(kOnePool);
  WriteKeys(Key("n1", kKeyOfN1));
  const LoadedConfiguration first = First();

  struct Row {
    const char* name;
    std::string pools;
    std::string keys;
    std::string more;
    std::vector<std::string> changes;
  };
  const Row rows[] = {
      {"nothing", kOnePool, Key("n1", kKeyOfN1), "", {}},
      {"a node more", "  - {name: web, nodes: [{name: n1, address: \"10.0.0.1:443\"}, {name: n2, address: \"10.0.0.2:443\"}]}\n",
       Key("n1", kKeyOfN1), "", {"pool web: node n2 10.0.0.2:443 added"}},
      {"another node", "  - {name: web, nodes: [{name: n2, address: \"10.0.0.2:443\"}]}\n", Key("n1", kKeyOfN1), "",
       {"pool web: node n1 removed", "pool web: node n2 10.0.0.2:443 added"}},
      {"a node elsewhere", "  - {name: web, nodes: [{name: n1, address: \"10.0.0.9:443\"}]}\n", Key("n1", kKeyOfN1), "",
       {"pool web: node n1 moved to 10.0.0.9:443"}},
      {"a weight", "  - {name: web, nodes: [{name: n1, address: \"10.0.0.1:443\", weight: 7}]}\n", Key("n1", kKeyOfN1), "",
       {"pool web: node n1 has weight 7, had 100"}},
      {"a balance", "  - {name: web, balance: maglev, nodes: [{name: n1, address: \"10.0.0.1:443\"}]}\n",
       Key("n1", kKeyOfN1), "", {"pool web: settings changed"}},
      {"a pool more", std::string(kOnePool) + "  - {name: more, nodes: []}\n", Key("n1", kKeyOfN1), "",
       {"pool more added, with 0 static nodes"}},
      {"a timeout", kOnePool, Key("n1", kKeyOfN1), "timeouts: {idle: 3m}\n", {"timeouts changed"}},
      {"a key more", kOnePool, Key("n1", kKeyOfN1) + Key("n2", kKeyOfN2), "", {"beacon key of node n2 added"}},
      {"another secret", kOnePool, Key("n1", kKeyOfN2), "", {"beacon key of node n1 changed"}},
      {"what a key allows", kOnePool, std::string("node=n1 key=") + kKeyOfN1 + " pools=web addresses=*\n", "",
       {"beacon key of node n1 changed"}},
  };
  for (const Row& row : rows) {
    WriteConfig(row.pools, "127.0.0.1:4443", row.more);
    WriteKeys(row.keys);
    const ConfigurationChange next = LoadChange(config_path(), first, 1);
    EXPECT_THAT(next.errors, IsEmpty()) << row.name;
    EXPECT_EQ(next.changes, row.changes) << row.name;
    EXPECT_NE(next.next, nullptr) << row.name;
  }
}

TEST_F(ReloadTest, AnErrorAnywhereLoadsNothing) {
  WriteConfig(kOnePool);
  WriteKeys(Key("n1", kKeyOfN1));
  const LoadedConfiguration first = First();

  struct Row {
    const char* name;
    std::function<void()> write;
    const char* error;
  };
  const Row rows[] = {
      {"a change that needs a restart", [&] { WriteConfig(kOnePool, "127.0.0.1:4444"); }, "restart"},
      {"an unknown key", [&] { WriteConfig(kOnePool, "127.0.0.1:4443", "frob: 1\n"); }, "frob"},
      {"no file", [&] { ::unlink(config_path().c_str()); }, "hudsucker.yaml"},
      {"a bad line of the keys file", [&] { WriteConfig(kOnePool); WriteKeys("node=n1\n"); }, "beacon.keys:1"},
      {"keys that others can read", [&] { WriteKeys(Key("n1", kKeyOfN1), 0644); }, "chmod 600"},
      {"a keys file that lost all its keys", [&] { WriteKeys("# nothing\n"); }, "no keys in it"},
      {"keys that are not there", [&] { ::unlink(keys_path().c_str()); }, "beacon.keys"},
  };
  for (const Row& row : rows) {
    row.write();
    const ConfigurationChange next = LoadChange(config_path(), first, 1);
    ASSERT_EQ(next.errors.size(), 1u) << row.name;
    EXPECT_THAT(next.errors[0], HasSubstr(row.error)) << row.name;
    EXPECT_EQ(next.next, nullptr) << row.name;
  }
}

TEST_F(ReloadTest, ErrorsOfBothKindsAreSaidTogether) {
  WriteConfig(kOnePool);
  WriteKeys(Key("n1", kKeyOfN1));
  const LoadedConfiguration first = First();
  WriteConfig(kOnePool, "127.0.0.1:4444");
  WriteKeys("what\n");
  const ConfigurationChange next = LoadChange(config_path(), first, 1);
  EXPECT_EQ(next.errors.size(), 2u);
}

class ReloaderTest : public ::testing::Test {
 protected:
  void Run(const std::function<bool()>& until) {
    for (int i = 0; i < 1000 && !until(); ++i) loop_->RunOnce(10ms);
  }
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  std::shared_ptr<const LoadedConfiguration> running_ = std::make_shared<LoadedConfiguration>();
};

TEST_F(ReloaderTest, RequestsDuringALoadMakeOneMore) {
  // The first load ends when it is told to, so that the requests surely come while it is under way.
  auto loads = std::make_shared<std::atomic<int>>(0);
  auto go_on = std::make_shared<std::atomic<bool>>(false);
  int done = 0;
  auto reloader = Reloader::Create(
      loop_.get(), {.load = [loads, go_on](const LoadedConfiguration&) {
                      ++*loads;
                      while (!*go_on) ::usleep(1000);
                      return ConfigurationChange{};
                    },
                    .running = [&] { return running_; },
                    .done = [&](ConfigurationChange) { ++done; }});
  ASSERT_TRUE(reloader.ok());
  for (int i = 0; i < 5; ++i) (*reloader)->Request();
  loop_->RunOnce(1ms);
  EXPECT_EQ(done, 0) << "the loop does not wait for the load";
  *go_on = true;
  Run([&] { return done == 2; });
  loop_->RunOnce(20ms);
  EXPECT_EQ(done, 2);
  EXPECT_EQ(*loads, 2);
}

TEST_F(ReloaderTest, ALoadThatHangsDoesNotKeepTheProcess) {
  auto go_on = std::make_shared<std::atomic<bool>>(false);
  auto ended = std::make_shared<std::atomic<bool>>(false);
  {
    auto reloader = Reloader::Create(loop_.get(), {.load = [go_on, ended](const LoadedConfiguration&) {
                                                     while (!*go_on) ::usleep(1000);
                                                     *ended = true;
                                                     return ConfigurationChange{};
                                                   },
                                                   .running = [&] { return running_; },
                                                   .done = [](ConfigurationChange) { FAIL(); }});
    ASSERT_TRUE(reloader.ok());
    (*reloader)->Request();
  }
  EXPECT_EQ(loop_->size(), 0u);
  *go_on = true;
  while (!*ended) ::usleep(1000);
}

}  // namespace
}  // namespace hud
