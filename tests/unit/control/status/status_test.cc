#include <gtest/gtest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "control/process/process_stats.h"
#include "control/status/gzip.h"
#include "control/status/status_report.h"
#include "control/status/status_server.h"

namespace hud {
namespace {

using namespace std::chrono_literals;

// ---- Reports --------------------------------------------------------------------------------------------------------

class StatusReport : public ::testing::Test {
 protected:
  StatusReport() {
    sources_.version = "1.2.3";
    sources_.pid = 42;
    sources_.started = now_ - 90s;
    sources_.board = &board_;
    sources_.process = &process_;
    sources_.nodes = nodes_.get();
    sources_.affinity = &affinity_;
    sources_.workers = {workers_.data(), workers_.data() + 1};
    auto snapshot = std::make_shared<StatusSnapshot>();
    snapshot->route_table_version = 17;
    snapshot->prefixes = 3;
    snapshot->listeners = {"tls"};
    snapshot->beacons.applied = 5;
    snapshot->reloads = {2, 1, "f.yaml:3: \"bad\" \xff", now_ - 30s};
    snapshot->pools.resize(2);  // the first was removed by a reload
    snapshot->pools[0].index = PoolIndex{0};
    PoolSnapshot& pool = snapshot->pools[1];
    pool.index = PoolIndex{1};
    pool.name = "web";
    pool.balance = Balance::kMaglev;
    Cluster::NodeStatus node{};
    node.name = "n1";
    node.ref = {NodeIndex{4}, 1};
    node.address = *SocketAddress::Parse("10.0.0.1:8443");
    node.weight = 100;
    node.has_agent = true;
    node.verdicts.agent = AgentVerdict::kSilent;
    node.last_beacon = now_ - 4s;
    pool.nodes.push_back(node);
    // The same node in another pool has the same numbers: they are shown once.
    snapshot->pools.push_back({PoolIndex{2}, "mail", Balance::kPowerOfTwo, {node}});
    board_.Publish(std::move(snapshot));

    nodes_->node(NodeIndex{4}).active = 7;
    nodes_->node(NodeIndex{4}).total = 100;
    nodes_->node(NodeIndex{4}).offered = 50;
    nodes_->node(NodeIndex{4}).resumed = 49;
    nodes_->pool(PoolIndex{1}).total = 101;
    nodes_->pool(PoolIndex{1}).over_bound = 2;
    for (WorkerCounters& worker : workers_) {
      worker.accepted.Set(60);
      worker.listeners[0].accepted.Set(60);
      worker.listeners[0].closes[static_cast<size_t>(CloseReason::kDone)].Set(30);
      worker.listeners[0].hello_time.Add(100);
      worker.pools[1].connect_time.Add(2000);
      worker.pools[1].bytes_in.Set(10);
      worker.nodes[4].Add(1, 1000, 2000);
      worker.nodes[4].Add(1, 1, 2);
      worker.closes[static_cast<size_t>(CloseReason::kDone)].Set(30);
    }
  }

  Instant now_{1000s};
  StatusTime time_{now_, std::chrono::system_clock::time_point(2'000'000'000s)};
  ProcessStatsReader process_;
  StatusBoard board_;
  std::unique_ptr<NodeTable> nodes_ = std::make_unique<NodeTable>();
  AffinityMap affinity_{{1000, {1, 2}}};
  std::array<WorkerCounters, 2> workers_;
  StatusSources sources_;
};

TEST_F(StatusReport, JsonHasTheFieldsThatScriptsRead) {
  const auto json = nlohmann::json::parse(StatusJson(sources_, now_));
  EXPECT_EQ(json["version"], "1.2.3");
  EXPECT_EQ(json["pid"], 42);
  EXPECT_EQ(json["uptime_s"], 90.0);
  EXPECT_EQ(json["route_table_version"], 17);
  ASSERT_EQ(json["pools"].size(), 2u) << "a removed pool is not shown";
  const auto& pool = json["pools"][0];
  EXPECT_EQ(pool["name"], "web");
  EXPECT_EQ(pool["balance"], "maglev");
  EXPECT_EQ(pool["total"], 101);
  EXPECT_EQ(pool["over_bound"], 2);
  EXPECT_EQ(pool["no_usable_node"], 0);
  const auto& node = pool["nodes"][0];
  EXPECT_EQ(node["name"], "n1");
  EXPECT_EQ(node["address"], "10.0.0.1:8443");
  EXPECT_EQ(node["state"], "silent");
  EXPECT_EQ(node["active"], 7);
  EXPECT_EQ(node["total"], 100);
  EXPECT_EQ(node["offered"], 50);
  EXPECT_EQ(node["resumed"], 49);
  EXPECT_EQ(node["bytes_in"], 2002);
  EXPECT_EQ(node["bytes_out"], 4004);
  EXPECT_EQ(json["listeners"][0]["name"], "tls");
  EXPECT_EQ(json["listeners"][0]["accepted"], 120);
  EXPECT_EQ(json["listeners"][0]["active"], 60);
  EXPECT_GT(json["process"]["open_fds"], 0);
  EXPECT_GT(json["process"]["resident_bytes"], 1 << 20);
  EXPECT_EQ(node["agent"]["last_beacon_age_s"], 4.0);
  EXPECT_EQ(json["affinity"]["prefixes"], 3);
  EXPECT_GE(json["affinity"]["capacity"], 1000);
  EXPECT_EQ(json["beacons"]["applied"], 5);
  EXPECT_EQ(json["closes"]["done"], 60);
  EXPECT_EQ(json["closes"].size(), kCloseReasonCount);
  EXPECT_EQ(json["workers"].size(), 2u);
  EXPECT_EQ(json["workers"][1]["accepted"], 60);
  EXPECT_EQ(json["reloads"]["ok"], 2);
  EXPECT_EQ(json["reloads"]["failed"], 1);
  EXPECT_NE(json["reloads"]["last_error"], "");
}

TEST_F(StatusReport, MetricsFollowTheConventions) {
  const std::string text = MetricsText(sources_, time_);
  for (const std::string line : {
           "# TYPE hudsucker_connections_closed_total counter",
           "hudsucker_connections_closed_total{reason=\"done\"} 60",
           "hudsucker_connections_accepted_total{worker=\"1\"} 60",
           "hudsucker_node_resumed_total{node=\"n1\"} 49",
           "hudsucker_node_connections_active{node=\"n1\"} 7",
           "hudsucker_node_state{node=\"n1\",state=\"silent\"} 1",
           "hudsucker_node_state{node=\"n1\",state=\"up\"} 0",
           "hudsucker_node_usable{node=\"n1\"} 1",
           "hudsucker_node_received_bytes_total{node=\"n1\"} 2002",
           "hudsucker_node_last_beacon_timestamp_seconds{node=\"n1\"} 1999999996",
           "hudsucker_pool_node_info{pool=\"web\",node=\"n1\"} 1",
           "hudsucker_pool_node_info{pool=\"mail\",node=\"n1\"} 1",
           "hudsucker_pool_nodes{pool=\"web\",state=\"silent\"} 1",
           "hudsucker_pool_nodes{pool=\"web\",state=\"up\"} 0",
           "hudsucker_pool_bytes_total{pool=\"web\",direction=\"client_to_node\"} 20",
           "hudsucker_pool_connect_duration_seconds_bucket{pool=\"web\",le=\"0.001024\"} 0",
           "hudsucker_pool_connect_duration_seconds_bucket{pool=\"web\",le=\"0.002048\"} 2",
           "hudsucker_pool_connect_duration_seconds_bucket{pool=\"web\",le=\"+Inf\"} 2",
           "hudsucker_pool_connect_duration_seconds_sum{pool=\"web\"} 0.004",
           "hudsucker_pool_connect_duration_seconds_count{pool=\"web\"} 2",
           "hudsucker_listener_hello_duration_seconds_bucket{listener=\"tls\",le=\"0.000128\"} 2",
           "hudsucker_listener_connections_active{listener=\"tls\"} 60",
           "hudsucker_listener_connections_closed_total{listener=\"tls\",reason=\"done\"} 60",
           "hudsucker_pool_over_bound_total{pool=\"web\"} 2",
           "hudsucker_affinity_prefixes 3",
           "hudsucker_beacons_total{result=\"applied\"} 5",
           "hudsucker_reloads_total{result=\"failed\"} 1",
           "hudsucker_build_info{version=\"1.2.3\"} 1",
           "hudsucker_config_last_reload_successful 0",
           "hudsucker_config_last_reload_success_timestamp_seconds 1999999970",
           "process_start_time_seconds 1999999910",
           "# TYPE process_open_fds gauge",
       }) {
    EXPECT_NE(text.find(line + "\n"), std::string::npos) << line << "\n" << text;
  }
}

// ---- HTTP -----------------------------------------------------------------------------------------------------------

TEST(StatusAnswers, ByMethodAndPath) {
  const std::vector<StatusServer::Page> pages = {{"/status", "application/json", [] { return std::string("{}\n"); }}};
  struct Row {
    const char* name;
    const char* method;
    const char* target;
    const char* first_line;
    const char* last;
  };
  const Row rows[] = {
      {"a page", "GET", "/status", "HTTP/1.1 200 OK", "{}\n"},
      {"a query is ignored", "GET", "/status?pretty=1", "HTTP/1.1 200 OK", "{}\n"},
      {"HEAD has no body", "HEAD", "/status", "HTTP/1.1 200 OK", "\r\n\r\n"},
      {"what is not there", "GET", "/nothing", "HTTP/1.1 404 Not Found", "here.\n"},
      {"no tricks with the path", "GET", "/status/../status", "HTTP/1.1 404 Not Found", "here.\n"},
      {"nothing can be changed", "POST", "/status", "HTTP/1.1 405 Method Not Allowed", "here.\n"},
      {"an unknown method", "BREW", "/status", "HTTP/1.1 405 Method Not Allowed", "here.\n"},
  };
  StatusServerCounters counters;
  for (const Row& row : rows) {
    const std::string response =
        StatusServer::Respond(pages, [] { return std::vector<std::string>(); }, {row.method, row.target, "127.0.0.1:9180", ""}, &counters);
    EXPECT_TRUE(response.starts_with(std::string(row.first_line) + "\r\n")) << row.name << "\n" << response;
    EXPECT_TRUE(response.ends_with(row.last)) << row.name << "\n" << response;
    EXPECT_NE(response.find("Connection: close\r\n"), std::string::npos) << row.name;
  }
}

TEST(StatusAnswers, OnlyUnderItsOwnNames) {
  const std::vector<std::string> names = {"proxy1.example.com"};
  for (const char* own : {"127.0.0.1", "127.0.0.1:9180", "10.1.2.3", "[::1]", "[2001:db8::1]:9180", "localhost", "LocalHost:80",
                          "localhost.", "proxy1.example.com", "Proxy1.Example.com:9180", "proxy1.example.com."}) {
    EXPECT_TRUE(StatusServer::IsOwnHost(own, names)) << own;
  }
  for (const char* foreign : {"evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "xproxy1.example.com",
                              "proxy1.example.com.evil.example:9180", "127.0.0.1:9180@evil.example", "[::1].evil.example", "::1",
                              "[::1", "127.1", ":9180", "[]", "evil.example:127.0.0.1"}) {
    EXPECT_FALSE(StatusServer::IsOwnHost(foreign, names)) << foreign;
  }
  const std::vector<StatusServer::Page> pages = {{"/status", "application/json", [] { return std::string("{}\n"); }}};
  StatusServerCounters counters;
  const auto ask = [&](std::string_view host) {
    return StatusServer::Respond(pages, [&] { return names; }, {"GET", "/status", host, ""}, &counters);
  };
  const std::string refused = ask("evil.example");
  EXPECT_TRUE(refused.starts_with("HTTP/1.1 421 ")) << refused;
  EXPECT_NE(refused.find("status: {hosts: [NAME]}"), std::string::npos) << "what to do about it";
  EXPECT_EQ(refused.find("{}"), std::string::npos);
  EXPECT_TRUE(ask("proxy1.example.com").starts_with("HTTP/1.1 200 "));
  EXPECT_TRUE(ask("").starts_with("HTTP/1.1 200 ")) << "no browser leaves it out";
  EXPECT_EQ(counters.foreign_host, 1u);
  EXPECT_EQ(counters.answered, 2u);
}

TEST(StatusAnswers, AreCompressedForThoseWhoAskForIt) {
  struct Row {
    const char* accepts;
    bool gzip;
  };
  const Row rows[] = {{"gzip", true},          {"deflate, GZip;q=0.5", true}, {"gzip;q=1.0,identity", true}, {"", false},
                      {"identity", false},     {"gzip;q=0", false},           {"gzip;q=0.000", false},       {"xgzip", false},
                      {"gzip;q=nan", false},   {"br, zstd", false},           {"gzip;level=9", false}};
  for (const Row& row : rows) EXPECT_EQ(AcceptsGzip(row.accepts), row.gzip) << row.accepts;

  const std::string text(100'000, 'x');
  const std::vector<StatusServer::Page> pages = {{"/big", "text/plain", [&] { return text; }}, {"/small", "text/plain", [] { return "x"; }}};
  StatusServerCounters counters;
  const auto ask = [&](std::string_view path) {
    return StatusServer::Respond(pages, [] { return std::vector<std::string>(); }, {"GET", path, "", "gzip"}, &counters);
  };
  const std::string big = ask("/big");
  EXPECT_NE(big.find("Content-Encoding: gzip\r\n"), std::string::npos);
  EXPECT_NE(big.find("Vary: Accept-Encoding\r\n"), std::string::npos) << "also for caches in between";
  EXPECT_LT(big.size(), 2000u);
  EXPECT_EQ(ask("/small").find("Content-Encoding"), std::string::npos) << "not worth it";
}

TEST(StatusPage, DrawsTextNotMarkup) {
  EXPECT_EQ(kStatusPage.find("innerHTML"), std::string_view::npos);
  EXPECT_EQ(kStatusPage.find("http://"), std::string_view::npos) << "nothing is loaded from elsewhere";
  EXPECT_EQ(kStatusPage.find("https://"), std::string_view::npos);
}

class StatusServerTest : public ::testing::Test {
 protected:
  StatusServerTest() {
    auto listener = StatusServer::Bind(*SocketAddress::Parse("127.0.0.1:0"));
    EXPECT_TRUE(listener.ok()) << listener.status();
    sockaddr_storage bound{};
    socklen_t length = sizeof bound;
    ::getsockname(listener->get(), reinterpret_cast<sockaddr*>(&bound), &length);
    address_ = SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&bound), length);
    std::vector<Fd> listeners;
    listeners.push_back(*std::move(listener));
    auto server = StatusServer::Start(std::move(listeners), {
        {"/status", "application/json", [] { return std::string("{}\n"); }},
        {"/big", "text/plain", [] { return std::string(16 << 20, 'x'); }},
        {"/some", "text/plain", [] { return std::string(5 << 20, 'x'); }},  // more than sockets take
    }, [] { return std::vector<std::string>(); }, &counters_);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  Fd Connect(const char* from = "127.0.0.1:0") {
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const SocketAddress own = *SocketAddress::Parse(from);
    EXPECT_EQ(::bind(fd.get(), own.data(), own.size()), 0);
    EXPECT_EQ(::connect(fd.get(), address_.data(), address_.size()), 0);
    const timeval patience{20, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
  }
  static void Send(const Fd& fd, std::string_view text) { ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL); }
  static std::string ReadToEnd(const Fd& fd) {
    std::string text;
    char buffer[65536];
    for (ssize_t n; (n = ::recv(fd.get(), buffer, sizeof buffer, 0)) > 0;) text.append(buffer, static_cast<size_t>(n));
    return text;
  }
  bool Serves() {
    const Fd fd = Connect();
    Send(fd, "GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n");
    return ReadToEnd(fd).starts_with("HTTP/1.1 200 OK\r\n");
  }

  SocketAddress address_;
  StatusServerCounters counters_;
  std::unique_ptr<StatusServer> server_;
};

TEST_F(StatusServerTest, AnswersARequestHoweverItIsCut) {
  const std::string request = "GET /status HTTP/1.0\r\nUser-Agent: t\r\n\r\n";
  for (size_t cut = 0; cut < request.size(); ++cut) {
    const Fd fd = Connect();
    Send(fd, request.substr(0, cut));
    if (cut % 8 == 0) std::this_thread::sleep_for(1ms);
    Send(fd, request.substr(cut));
    EXPECT_TRUE(ReadToEnd(fd).starts_with("HTTP/1.1 200 OK\r\n")) << cut;
  }
}

TEST_F(StatusServerTest, WhatIsNoHttpIsRefused) {
  struct Row {
    const char* name;
    std::string request;
  };
  const Row rows[] = {
      {"a TLS hello", std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 15)},
      {"a header without end", "GET / HTTP/1.1\r\nX: " + std::string(20'000, 'x')},
      {"a request line without end", "GET /" + std::string(20'000, 'x')},
      {"a bad version", "GET / HTTP/9.9\r\n\r\n"},
      {"two hosts", "GET /status HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"},
  };
  for (const Row& row : rows) {
    const Fd fd = Connect();
    Send(fd, row.request);
    EXPECT_TRUE(ReadToEnd(fd).starts_with("HTTP/1.1 400 ")) << row.name;
  }
  EXPECT_TRUE(Serves());
}

TEST_F(StatusServerTest, ABigAnswerArrivesWholeAtASlowReader) {
  const Fd fd = Connect();
  Send(fd, "GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_TRUE(Serves()) << "others are served meanwhile";
  const std::string response = ReadToEnd(fd);
  EXPECT_EQ(response.size() - response.find("\r\n\r\n") - 4, size_t{16} << 20);
}

TEST_F(StatusServerTest, ARequestWithABodyGetsItsAnswerAndNotAReset) {
  const Fd fd = Connect();
  Send(fd, "POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + std::string(1000, 'x'));
  EXPECT_TRUE(ReadToEnd(fd).starts_with("HTTP/1.1 405 "));
}

TEST_F(StatusServerTest, SilentClientsCannotTakeAllPlaces) {
  std::vector<Fd> silent;
  for (size_t i = 0; i < 3 * StatusServer::kMaxClients; ++i) silent.push_back(Connect());
  EXPECT_TRUE(Serves());
}

// Whoever holds most makes room: the scrape is the older one, asks slowly, and keeps its place.
TEST_F(StatusServerTest, AFloodDisplacesItselfAndNotAScrapeFromElsewhere) {
  const Fd scrape = Connect("127.0.0.2:0");
  Send(scrape, "GET /status HTTP/1.1\r\n");
  std::vector<Fd> flood;
  for (size_t i = 0; i < 3 * StatusServer::kMaxClients; ++i) {
    flood.push_back(Connect("127.0.0.3:0"));
    if (i % 8 == 7) Send(flood.back(), "GET /some HTTP/1.1\r\nHost: localhost\r\n\r\n");
  }
  EXPECT_TRUE(Serves());
  Send(scrape, "Host: localhost\r\n\r\n");
  EXPECT_TRUE(ReadToEnd(scrape).starts_with("HTTP/1.1 200 OK\r\n"));
  EXPECT_GE(counters_.displaced, StatusServer::kMaxClients);
}

TEST_F(StatusServerTest, AnswersWhenNoDescriptorIsLeft) {
  // The clients' ends first: they need descriptors too.
  std::vector<Fd> clients;
  for (int i = 0; i < 3; ++i) {
    clients.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval patience{20, 0};
    ::setsockopt(clients.back().get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  // Room for no descriptor above those that are open.
  const Fd highest(::fcntl(clients.back().get(), F_DUPFD_CLOEXEC, 0));
  const rlimit tight{static_cast<rlim_t>(highest.get()) + 1, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &tight), 0);
  EXPECT_LT(::dup(0), 0);
  std::vector<std::string> answers;
  for (Fd& fd : clients) {
    EXPECT_EQ(::connect(fd.get(), address_.data(), address_.size()), 0);
    Send(fd, "GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n");
    answers.push_back(ReadToEnd(fd));
  }
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  for (const std::string& answer : answers) EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
}

}  // namespace
}  // namespace hud
