// deploy/reference.md has a row for every field and value that the access log, /status and /metrics can show, and for
// nothing else. Whoever adds one is told here which row to write.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "control/log/access_log.h"
#include "control/process/process_stats.h"
#include "control/status/status_report.h"
#include "control/status/status_server.h"

namespace hud {
namespace {

using namespace std::chrono_literals;
using Names = std::set<std::string>;

// The page: the first cells, without backquotes, and the whole rows of each section's table.
struct Page {
  std::map<std::string, Names> cells;
  std::map<std::string, Names> rows;
};

Page ReadPage() {
  std::ifstream file(std::string(HUD_SOURCE_DIR) + "/deploy/reference.md");
  EXPECT_TRUE(file.good()) << "deploy/reference.md is gone";
  Page page;
  std::string section;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("#")) section = line.substr(line.find(' ') + 1);
    if (!line.starts_with("| `")) continue;
    page.cells[section].insert(line.substr(3, line.find('`', 3) - 3));
    page.rows[section].insert(line);
  }
  return page;
}

void ExpectSame(const Page& page, const std::string& section, const Names& in_code) {
  const auto found = page.cells.find(section);
  const Names in_page = found == page.cells.end() ? Names() : found->second;
  for (const std::string& name : in_code) {
    EXPECT_TRUE(in_page.contains(name)) << "deploy/reference.md, section '" << section << "', lacks a row; add\n| `" << name
                                        << "` | what it means |";
  }
  for (const std::string& name : in_page) {
    EXPECT_TRUE(in_code.contains(name)) << "deploy/reference.md, section '" << section << "': nothing shows `" << name
                                        << "` any more; remove its row";
  }
}

class Reference : public ::testing::Test {
 protected:
  Reference() {
    sources_.version = "1";
    sources_.board = &board_;
    sources_.nodes = nodes_.get();
    sources_.affinity = &affinity_;
    sources_.workers = {worker_.get()};
    sources_.process = &process_;
    sources_.server = &server_;
    auto snapshot = std::make_shared<StatusSnapshot>();
    snapshot->listeners = {"tls"};
    Cluster::NodeStatus node{};
    node.name = "n1";
    node.ref = {NodeIndex{0}, 1};
    node.address = *SocketAddress::Parse("10.0.0.1:8443");
    node.has_agent = true;
    node.last_beacon = Instant(999s);
    snapshot->pools.push_back({PoolIndex{0}, "web", Balance::kPowerOfTwo, {node}});
    snapshot->leaving.push_back({"n2", {NodeIndex{1}, 1}, node.address});
    nodes_->node(NodeIndex{1}).active = 1;
    board_.Publish(snapshot);
  }

  StatusBoard board_;
  std::unique_ptr<NodeTable> nodes_ = std::make_unique<NodeTable>();
  AffinityMap affinity_{{1000, {1, 2}}};
  std::unique_ptr<WorkerCounters> worker_ = std::make_unique<WorkerCounters>();
  ProcessStatsReader process_;
  StatusServerCounters server_;
  StatusSources sources_;
  Page page_ = ReadPage();
};

// "pools[].nodes[].name". What is an object by reasons or flaws is one row: their names have sections of their own.
void Paths(const nlohmann::json& json, const std::string& path, Names* out) {
  static const Names kByName = {"closes", "choices", "hello_flaws", "listeners[].closes"};
  if (json.is_object() && !kByName.contains(path)) {
    for (const auto& [key, value] : json.items()) Paths(value, path.empty() ? key : path + "." + key, out);
  } else if (json.is_array() && !json.empty()) {
    for (const auto& item : json) Paths(item, path + "[]", out);
  } else {
    out->insert(path);
  }
}

TEST_F(Reference, HasEveryFieldOfStatus) {
  Names paths;
  Paths(nlohmann::json::parse(StatusJson(sources_, Instant(1000s))), "", &paths);
  ExpectSame(page_, "/status", paths);
  Names states;
  for (const std::string_view state : kNodeStateNames) states.emplace(state);
  ExpectSame(page_, "States of a node", states);
}

// Name, kind, labels and description are compared whole: the page has the very words of /metrics.
TEST_F(Reference, HasEveryMetricInItsOwnWords) {
  std::map<std::string, std::string> help, type;
  std::map<std::string, Names> labels;
  std::istringstream text(MetricsText(sources_, {Instant(1000s), {}}));
  for (std::string line; std::getline(text, line);) {
    std::istringstream words(line);
    std::string hash, what, name, rest;
    if (line.starts_with("# ")) {
      words >> hash >> what >> name;
      std::getline(words >> std::ws, rest);
      (what == "HELP" ? help : type)[name] = rest;
      continue;
    }
    name = line.substr(0, line.find_first_of("{ "));
    for (const char* suffix : {"_bucket", "_sum", "_count"}) {
      if (name.ends_with(suffix) && type.contains(name.substr(0, name.size() - std::strlen(suffix)))) {
        name.resize(name.size() - std::strlen(suffix));
      }
    }
    const size_t open = line.find('{'), close = line.find('}');
    if (open == std::string::npos) continue;
    std::istringstream list(line.substr(open + 1, close - open - 1));
    for (std::string label; std::getline(list, label, ',');) {
      if (!label.starts_with("le=")) labels[name].insert(label.substr(0, label.find('=')));
    }
  }
  Names rows;
  for (const auto& [name, words] : help) {
    EXPECT_TRUE(words.ends_with('.')) << name << ": its HELP is a whole sentence";
    EXPECT_FALSE(words.starts_with("Of those")) << name << ": its HELP is shown without the one before";
    std::string list;
    for (const std::string& label : labels[name]) list += (list.empty() ? "" : ", ") + label;
    rows.insert("| `" + name + "` | " + type[name] + " | " + list + " | " + words + " |");
  }
  for (const std::string& row : rows) {
    EXPECT_TRUE(page_.rows["/metrics"].contains(row)) << "deploy/reference.md, section '/metrics', lacks this row:\n" << row;
  }
  for (const std::string& row : page_.rows["/metrics"]) {
    EXPECT_TRUE(rows.contains(row)) << "deploy/reference.md, section '/metrics', has a row that is not so (any more):\n" << row;
  }
}

TEST_F(Reference, HasEveryFieldAndValueOfTheAccessLog) {
  std::map<std::string, Names> seen;
  const auto note = [&](const ConnectionRecord& record) {
    const auto line = nlohmann::json::parse("{" + FormatConnection(record, LogFormat::kJson).text() + "}");
    for (const auto& [key, value] : line.items()) seen[key].insert(value.is_string() ? value.get<std::string>() : value.dump());
  };
  ConnectionRecord full;
  full.server_name.Set("x");
  for (ShortName* name : {&full.listener, &full.pool, &full.node}) name->Set("x");
  full.client = full.balancer = full.local = InternetEndpoint(*SocketAddress::Parse("10.0.0.1:1"));
  full.ech = full.early_data = true;
  full.offered = TokenKind::kTicket;
  full.hello = HelloVerdict::kComplete;
  note(full);
  const auto each = [&](size_t count, auto set) {
    for (size_t i = 0; i < count; ++i) {
      ConnectionRecord record = full;
      set(record, static_cast<uint8_t>(i));
      note(record);
    }
  };
  each(kCloseReasonCount, [](ConnectionRecord& r, uint8_t i) { r.close = static_cast<CloseReason>(i); });
  each(std::tuple_size_v<decltype(WorkerCounters::choices)>, [](ConnectionRecord& r, uint8_t i) { r.reason = static_cast<ChoiceReason>(i); });
  each(kHelloFlawCount, [](ConnectionRecord& r, uint8_t i) { r.flaw = static_cast<HelloFlaw>(i); });
  each(8, [](ConnectionRecord& r, uint8_t i) { r.offered = static_cast<TokenKind>(i); });
  each(8, [](ConnectionRecord& r, uint8_t i) { r.resumption = static_cast<ResumptionVerdict>(i); });
  each(8, [](ConnectionRecord& r, uint8_t i) { r.hello = static_cast<HelloVerdict>(i); });
  each(8, [](ConnectionRecord& r, uint8_t i) { r.hello = HelloVerdict::kComplete, r.tls13 = i % 2 == 1; });
  each(16, [](ConnectionRecord& r, uint8_t i) { r.hello = HelloVerdict::kNotTls, r.not_tls = static_cast<NotTlsKind>(i); });
  Names fields;
  for (const auto& [key, values] : seen) fields.insert(key);
  ExpectSame(page_, "The access log", fields);
  ExpectSame(page_, "Values of close", seen["close"]);
  ExpectSame(page_, "Values of why", seen["why"]);
  ExpectSame(page_, "Values of flaw", seen["flaw"]);
  ExpectSame(page_, "Values of offered", seen["offered"]);
  ExpectSame(page_, "Values of resumed", seen["resumed"]);
  ExpectSame(page_, "Values of hello", seen["hello"]);
}

}  // namespace
}  // namespace hud
