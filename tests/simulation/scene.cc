#include "tests/simulation/scene.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/net/proxy_protocol.h"
#include "tests/simulation/scarce_memory.h"
#include "tests/unit/core/tls/hello_builder.h"

namespace hud::simulation {
namespace {

using namespace std::chrono_literals;
using test::operator+;

constexpr size_t kIdAt = 11;  // in a ClientHello: its random begins there; where other clients have theirs, too
constexpr size_t kIdSize = 8;
constexpr Duration kCalmEndsWithin = 5min;
constexpr uint64_t kMostTurns = 300'000;
constexpr Duration kStopEndsWithin = 3s;

SocketAddress AddressOf(const std::string& text) { return SocketAddress::Parse(text).value(); }

std::string NameOf(CloseReason reason) { return std::string(CloseReasonName(reason)); }

std::vector<uint8_t> IdBytes(uint64_t id) {
  std::vector<uint8_t> bytes(kIdSize);
  std::memcpy(bytes.data(), &id, kIdSize);
  return bytes;
}

uint64_t IdIn(const uint8_t* bytes) {
  uint64_t id;
  std::memcpy(&id, bytes, kIdSize);
  return id;
}

}  // namespace

// ---- Clients and nodes

ClientPeer::ClientPeer(Scene& scene, uint64_t id, std::shared_ptr<Endpoint> endpoint, Content content, const Introduction& introduction,
                       const Plan& plan)
    : Peer(scene.world_, absl::StrCat("client ", id), std::move(endpoint), std::move(content), plan),
      scene_(scene),
      introduction_(introduction) {}

// A node's stream begins with its number.
void ClientPeer::OnBytes(Bytes bytes) {
  if (heard_ == nullptr) {
    first_.insert(first_.end(), bytes.begin(), bytes.end());
    if (first_.size() < kIdSize) return;
    const uint64_t id = IdIn(first_.data());
    if (id >= scene_.met_.size()) {
      received_ += first_.size();
      // Of the proxy itself a client hears one thing only, an alert.
      if (first_[0] != 21) world_.Violation(absl::StrCat("StreamsComeOutAsTheyWentIn: ", name(), " reads what no node has sent"));
      return first_.clear();
    }
    heard_ = scene_.met_[id].get();
    if (heard_->client() != nullptr && heard_->client() != this) {
      return world_.Violation(absl::StrCat("StreamsComeOutAsTheyWentIn: ", name(), " reads what was for ", heard_->client()->name()));
    }
    if (!heard_->content().IsAt(0, first_)) return world_.Violation(absl::StrCat("StreamsComeOutAsTheyWentIn: ", name(), " at its begin"));
    received_ = first_.size();
    return;
  }
  if (!heard_->content().IsAt(received_, bytes)) {
    world_.Violation(absl::StrCat("StreamsComeOutAsTheyWentIn: ", name(), " reads a wrong byte in ", bytes.size(), " from ", received_, " on"));
  }
  received_ += bytes.size();
}

NodePeer::NodePeer(Scene& scene, uint64_t id, int node, bool proxy_header, std::shared_ptr<Endpoint> endpoint, Content content, const Plan& plan)
    : Peer(scene.world_, absl::StrCat("node ", node, " in its connection ", id), std::move(endpoint), std::move(content), plan),
      scene_(scene),
      node_(node),
      wants_proxy_header_(proxy_header) {}

void NodePeer::OnBytes(Bytes bytes) {
  if (client_ != nullptr) {
    if (!client_->content().IsAt(client_->introduction().proxy_header.size() + received_, bytes)) {
      world_.Violation(absl::StrCat("StreamsComeOutAsTheyWentIn: ", name(), " reads a wrong byte in ", bytes.size(), " from ", received_, " on"));
    }
    received_ += bytes.size();
    return;
  }
  first_.insert(first_.end(), bytes.begin(), bytes.end());
  if (wants_proxy_header_ && !TakeProxyHeader()) return;
  if (first_.size() >= kIdAt + kIdSize) Identify();
}

bool NodePeer::TakeProxyHeader() {
  if (first_.size() < 16) return false;
  const size_t size = 16 + static_cast<size_t>(first_[14] << 8 | first_[15]);
  if (first_.size() < size) return false;
  ProxyHeader header;
  if (ParseProxyHeader(first_, header) != ProxyHeaderVerdict::kComplete) world_.Violation(absl::StrCat("TheProxyHeaderComesFirst: ", name()));
  said_client_ = header.source;
  first_.erase(first_.begin(), first_.begin() + static_cast<std::ptrdiff_t>(size));
  wants_proxy_header_ = false;
  not_of_the_stream_ = size;
  return true;
}

void NodePeer::Identify() {
  const uint64_t id = IdIn(first_.data() + kIdAt);
  if (id >= scene_.clients_.size()) return world_.Violation(absl::StrCat("StreamsComeOutAsTheyWentIn: ", name(), " reads no client's hello"));
  client_ = scene_.clients_[id].get();
  client_->MetBy(this);
  if (client_->nodes().size() > 1) world_.Violation(absl::StrCat("OneNodeReadsAHello: ", client_->name(), " was sent to two"));
  const Introduction& introduction = client_->introduction();
  if (!client_->content().IsAt(introduction.proxy_header.size(), first_)) {
    world_.Violation(absl::StrCat("StreamsComeOutAsTheyWentIn: ", name(), " at its begin"));
  }
  if (!introduction.welcome) world_.Violation(absl::StrCat("NoHeaderNoService: ", client_->name(), " is served"));
  if (!introduction.routed || static_cast<size_t>(node_) % scene_.pool_count_ != introduction.pool) {
    world_.Violation(absl::StrCat("ANameGoesToItsPool: ", client_->name(), " to ", name()));
  }
  // Who has gone can no longer be asked for its address.
  const bool unknown = said_client_.family() == AF_UNSPEC && client_->proxys_end().dead;
  if (not_of_the_stream_ > 0 && !(said_client_ == introduction.client) && !unknown) {
    world_.Violation(absl::StrCat("TheProxyHeaderNamesTheClient: ", said_client_.ToString(), " for ", introduction.client.ToString()));
  }
  received_ = std::exchange(first_, {}).size();
}

Answer SimulatedNode::Decide() {
  Random& random = scene_.world_.random;
  Faults& faults = scene_.world_.faults;
  if (faults.Happens(Fault::kConnectRefused)) return {Answer::Kind::kRefused, random.Time(1us, 500ms)};
  if (faults.Happens(Fault::kConnectNever)) return {Answer::Kind::kNever, {}};
  if (faults.Happens(Fault::kConnectLate)) return {Answer::Kind::kAccepted, random.Time(10ms, 5s)};
  return {Answer::Kind::kAccepted, random.Time(5us, 5ms)};
}

void SimulatedNode::Connected(const std::shared_ptr<Endpoint>& their_end) { scene_.NodeIsMet(number_, their_end); }

// ---- The day

Scene::Scene(uint64_t seed, bool tracing) : world_(seed) {
  world_.tracing = tracing;
  ChooseKernel();
  ChooseTraffic();
  ChooseRoutes();
  ChooseLimits();
  MakeWorker();
  PlanTheDay();
}

void Scene::ChooseKernel() {
  Random& random = world_.random;
  constexpr RelayMode kModes[] = {RelayMode::kAuto, RelayMode::kAuto, RelayMode::kSplice, RelayMode::kCopy, RelayMode::kZeroCopy};
  mode_ = kModes[random.Below(std::size(kModes))];
  features_.bounded_multishot_recv = !random.Chance(0.2);
  features_.silent_sends = !random.Chance(0.2);
  features_.minimum_wait = !random.Chance(0.2);
  features_.buffers = size_t{1} << (random.Chance(0.3) ? random.Between(1, 2) : random.Between(3, 7));
  features_.buffer_bytes = random.Chance(0.5) ? 16384 : 4096;
  features_.submission_entries = random.Magnitude(4, 256);
  features_.completion_entries = random.Chance(0.8) ? 4096 : random.Magnitude(4, 64);
}

void Scene::ChooseTraffic() {
  Random& random = world_.random;
  node_count_ = random.Between(1, 4);
  most_bytes_ = random.Magnitude(1000, 1'000'000);
  impolite_ = random.Chance(0.3) ? 0 : random.Unit();
  hungry_ = random.Chance(0.15);
  torrent_ = random.Chance(hungry_ ? 0.5 : 0.08);
  if (hungry_) {
    features_.buffers = random.Chance(0.7) ? 1 : 2;
    features_.buffer_bytes = 4096;
    if (random.Chance(0.5)) mode_ = RelayMode::kAuto;
  }
  if (torrent_) {
    most_bytes_ = random.Magnitude(200'000, 1'500'000);
    if (random.Chance(0.5)) impolite_ = 0;
    if (random.Chance(0.7)) mode_ = RelayMode::kAuto;
    world_.faults.Forbid(Fault::kShortReceive);  // of a full buffer it would make a small one
  }
}

void Scene::ChooseRoutes() {
  Random& random = world_.random;
  unix_nodes_ = random.Chance(0.2);
  proxy_headers_ = random.Chance(0.2);
  accept_proxy_ = random.Chance(0.15);
  trust_some_ = random.Chance(0.5);
  pool_count_ = random.Chance(0.3) ? random.Between(1, std::min<size_t>(node_count_, 3)) : 1;
  no_route_ = random.Chance(0.03);
}

void Scene::ChooseLimits() {
  Random& random = world_.random;
  short_timeouts_ = random.Chance(0.2);
  short_patience_ = random.Chance(0.2);
  max_connections_ = random.Chance(0.8) ? (random.Chance(0.5) ? 10'000 : 1000) : random.Between(1, 8);
  max_per_source_ = random.Chance(0.1) ? random.Between(1, 4) : 0;
  hello_bytes_ = random.Chance(0.1) ? random.Magnitude(600, 4000) : size_t{64} << 20;
  timeouts_.connect = 2s;
  timeouts_.idle = short_timeouts_ ? random.Time(100ms, 60s) : Duration(24h);
  timeouts_.half_closed = short_timeouts_ ? random.Time(100ms, 60s) : Duration(24h);
  options_ = {.relay = {.mode = mode_,
                        .pipe_bytes = size_t{1} << random.Between(16, 20),
                        .pipes = static_cast<unsigned>(random.Between(0, 16)),
                        .zero_copy_send = random.Chance(0.7),
                        // Where its timers are far away, nothing but the right wake-up saves a connection.
                        .quiet_after = random.Chance(0.5) ? Duration(24h) : random.Time(100ms, 5s),
                        .reset_patience = short_patience_ ? random.Time(10ms, 10s) : Duration(24h)},
              .log_connections = true,
              .digest_key = {3, 4},
              .random_seed = random.Next(),
              .check_invariants = true};
}

Scene::~Scene() { worker_.reset(); }

std::unique_ptr<RouteTable> Scene::NewTable() const {
  auto table = std::make_unique<RouteTable>();
  for (size_t p = 0; p < pool_count_; ++p) {
    PoolView pool;
    pool.name = absl::StrCat("pool ", p);
    pool.when_none = WhenNone::kAny;
    pool.proxy_protocol = proxy_headers_ ? ProxyProtocol::kV2 : ProxyProtocol::kOff;
    table->pools.push_back(std::move(pool));
  }
  for (size_t i = 0; i < node_count_; ++i) {
    NodeView node;
    node.name = absl::StrCat("n", i);
    node.address = AddressOf(unix_nodes_ && i % 2 == 0 ? absl::StrCat("unix:@n", i) : absl::StrCat("10.0.0.", i + 1, ":443"));
    table->nodes.push_back(node);
    table->pools[i % pool_count_].members.push_back({NodeIndex(static_cast<uint16_t>(i)), 100});
  }
  ListenerView listener;
  listener.name = "test";
  listener.hello_deadline = 5s;
  listener.hello_max_bytes = limits::kMaxHelloBytes;
  listener.default_pool = no_route_ ? PoolIndex::kNone : PoolIndex(0);
  listener.accept_proxy_protocol.enabled = accept_proxy_;
  if (trust_some_) listener.accept_proxy_protocol.from = {AddressRange::Parse("10.1.0.0/16").value()};
  for (size_t p = 1; p < pool_count_; ++p) {
    const std::string pattern = p == 1 ? "www.p1.example" : absl::StrCat("*.p", p, ".example");
    (void)listener.router.Add(pattern, {}, PoolIndex(static_cast<uint16_t>(p)), static_cast<uint16_t>(p - 1));
  }
  table->listeners.push_back(std::move(listener));
  table->timeouts = timeouts_;
  table->fall = 1'000'000;  // health is control's
  return table;
}

void Scene::MakeWorker() {
  routes_ = std::make_unique<SnapshotChannel<RouteTable>>(1, NewTable());
  for (size_t i = 0; i < node_count_; ++i) {
    destinations_.push_back(std::make_unique<SimulatedNode>(*this, static_cast<int>(i)));
    kernel_.SetDestination(routes_->latest().nodes[i].address, destinations_.back().get());
  }
  kernel_.ExpectDestinationsOnly();
  places_ = std::make_unique<Places>(PlaceLimits{.connections = max_connections_, .per_source = max_per_source_, .hello_bytes = hello_bytes_}, SipKey{1, 2});
  listener_ = kernel_.Listen(AddressOf("10.9.9.9:443"), world_.random.Magnitude(1, 128));
  wake_ = std::make_shared<EventCounter>();
  std::vector<ListeningSocket> sockets;
  sockets.push_back({ListenerIndex(0), Fd(kernel_.Give(listener_))});
  auto ring = std::make_unique<SimulatedRing>(kernel_, features_);
  ring_ = ring.get();
  worker_ = std::make_unique<Worker>(options_, RoutingState{routes_.get(), &affinity_, &nodes_}, *places_, std::move(ring), kernel_,
                                     std::move(sockets), Fd(kernel_.Give(wake_)), orders_, counters_, records_);
}

void Scene::PlanTheDay() {
  Random& random = world_.random;
  const Duration day = random.Time(1ms, 60s);
  still_to_come_ = random.Between(1, 12);
  for (size_t i = 0; i < still_to_come_; ++i) {
    world_.events.After(random.Time(1us, day), [this] { ClientComes(); });
  }
  for (size_t i = random.Below(4); i > 0; --i) {
    world_.events.After(random.Time(1us, 2 * day), [this] { routes_->Publish(NewTable()); });
  }
  if (random.Chance(0.2)) {
    world_.events.After(random.Time(1us, 2 * day), [this] {
      HUD_TRACE(world_, "the order to drain");
      const Instant until = world_.events.now() + world_.random.Time(1ms, 30s);
      orders_.Drain(until);
      Signal();
    });
  }
  if (random.Chance(0.1)) world_.events.After(random.Time(1us, 2 * day), [this] { Stop(); });
  world_.events.After(2 * day + random.Time(1ms, 30s), [this] { BeCalm(); });
}

Introduction Scene::IntroductionOf(uint64_t id, const SocketAddress& address) {
  Random& random = world_.random;
  Introduction said;
  said.client = address;
  if (!accept_proxy_) return said;
  said.welcome = !trust_some_ || address.ToString().starts_with("10.1.");
  const SocketAddress client = AddressOf(absl::StrCat("172.16.0.", id + 1, ":7000"));
  const auto say = [&](std::string_view text) { said.proxy_header = test::Text(text); };
  switch (random.Below(8)) {
    case 0: say("PROXY UNKNOWN\r\n"); break;
    case 1: said.welcome = false; break;  // without a header
    case 2:
      say("PROXY TCP4 172.16.0.1 nonsense 1 2\r\n");
      said.welcome = false;
      break;
    case 3:
    case 4:
      say(absl::StrCat("PROXY TCP4 172.16.0.", id + 1, " 10.9.9.9 7000 443\r\n"));
      said.client = client;
      break;
    default: {
      const ProxyV2Header header = WriteProxyV2(client, AddressOf("10.9.9.9:443"));
      said.proxy_header.assign(header.bytes().begin(), header.bytes().end());
      said.client = client;
    }
  }
  return said;
}

std::vector<uint8_t> Scene::HelloOf(uint64_t id, Introduction& introduction) {
  Random& random = world_.random;
  const test::Buffer head = IdBytes(id);
  introduction.routed = !no_route_;
  if (random.Chance(0.1)) {  // no TLS
    return test::Filled(kIdAt, static_cast<uint8_t>('A' + random.Below(26))) + head;
  }
  introduction.pool = random.Below(pool_count_);
  introduction.routed |= introduction.pool > 0;
  test::HelloBody body;
  std::copy(head.begin(), head.end(), body.random.begin());
  test::Buffer extensions = test::ServerName(absl::StrCat("www.p", introduction.pool, ".example")) + test::SupportedVersions({0x0304});
  if (random.Chance(0.3)) extensions = extensions + test::Extension(0xfafa, test::Filled(random.Magnitude(1, 8000), 1));
  if (random.Chance(0.3)) extensions = extensions + test::PreSharedKey({test::Counting(100, 9)});
  const test::Buffer message = test::Hello(body, extensions);
  return test::Records(message, random.Chance(0.3) ? random.Between(20, 2000) : 16384);
}

Plan Scene::NewPlan() {
  Random& random = world_.random;
  Plan plan = RandomPlan(random, most_bytes_, impolite_);
  if (plan.ending == Ending::kResets && world_.faults.Happens(Fault::kNetworkError)) plan.ending = Ending::kIsCutOff;
  if (!torrent_) return plan;
  plan.pace = random.Time(20us, 1ms);
  plan.most_at_once = 65536;
  if (random.Chance(0.6)) plan.to_send = random.Between(most_bytes_ / 4, most_bytes_);
  return plan;
}

// The second frees what the first has replaced, unless the worker has not seen it yet.
void Scene::PublishTwice() {
  routes_->Publish(NewTable());
  world_.events.After(Duration(world_.random.Below(500)), [this] { routes_->Publish(NewTable()); });
}

void Scene::ClientComes() {
  --still_to_come_;
  const uint64_t id = clients_.size();
  const bool stranger = accept_proxy_ && world_.random.Chance(0.2);
  const SocketAddress address = AddressOf(absl::StrCat("10.", stranger ? 2 : 1, ".", id / 4, ".", id % 4 + 1, ":", 1000 + id));
  Introduction introduction = IntroductionOf(id, address);
  const test::Buffer bytes = HelloOf(id, introduction);
  Content hello(introduction.proxy_header + bytes, world_.random.Next());
  Plan plan = NewPlan();
  // Keep-alive finds a vanished client after hours, the idle timeout before.
  if (plan.ending == Ending::kVanishes) plan.ending = Ending::kResets;
  if (!world_.random.Chance(0.1)) plan.to_send += hello.head_size();
  clients_.push_back(std::make_unique<ClientPeer>(*this, id, listener_->ConnectFrom(address), std::move(hello), introduction, plan));
  by_address_[address.ToString()] = clients_.back().get();
  clients_.back()->Start();
  if (calm_) clients_.back()->BeCalm();
}

void Scene::NodeIsMet(int number, const std::shared_ptr<Endpoint>& end) {
  const uint64_t id = met_.size();
  HUD_TRACE(world_, "node ", number, " accepts its connection ", id, ", ", end->name);
  Plan plan = NewPlan();
  const bool can_vanish = !end->is_unix && options_.relay.quiet_after <= 5s;  // of another machine, and its silence is looked for
  if (plan.ending == Ending::kVanishes && !can_vanish) plan.ending = Ending::kResets;
  if (plan.ending == Ending::kIsCutOff && end->is_unix) plan.ending = Ending::kResets;
  met_.push_back(std::make_unique<NodePeer>(*this, id, number, proxy_headers_, end, Content(IdBytes(id), world_.random.Next()), plan));
  met_.back()->Start();
  if (calm_) met_.back()->BeCalm();
}

void Scene::BeCalm() {
  HUD_TRACE(world_, "from now on all is calm");
  calm_ = true;
  calm_since_ = world_.events.now();
  world_.faults.Calm();
  for (auto& client : clients_) client->BeCalm();
  for (auto& node : met_) node->BeCalm();
  StopWhenAllIsOver();
}

void Scene::StopWhenAllIsOver() {
  if (AllIsOver()) return Stop();
  world_.events.After(100ms, [this] { StopWhenAllIsOver(); });
}

void Scene::Stop() {
  if (std::exchange(stopped_, true)) return;
  HUD_TRACE(world_, "the order to stop");
  stopped_at_ = world_.events.now();
  orders_.Stop();
  Signal();
}

bool Scene::AllIsOver() const {
  const auto done = [](const auto& peer) { return peer->done(); };
  return still_to_come_ == 0 && std::all_of(clients_.begin(), clients_.end(), done) && std::all_of(met_.begin(), met_.end(), done) &&
         counters_.active.Get() == 0;
}

void Scene::Run() {
  while (world_.violations.empty()) {
    if (!Turn()) break;
    CheckTurn();
    if (world_.random.Chance(0.005)) PublishTwice();  // by a thread that does not wait for turns
    if (calm_ && world_.events.now() > calm_since_ + kCalmEndsWithin) {
      world_.Violation("EverythingEnds: not within five minutes of calm");
    }
  }
  if (!world_.violations.empty()) return;
  JudgeEnd();
}

bool Scene::Turn() {
  const ScarceMemory scarce(world_.faults);
  return worker_->RunTurn();
}

// ---- What holds in every turn

void Scene::CheckTurn() {
  if (++turns_ > kMostTurns) world_.Violation("NoSpin: too many turns");
  CheckNoSpin();
  CheckStop();
  TakeRecords();
}

// *AStopIsObeyed*: whoever comes beside it holds nothing up. What the kernel owes may.
void Scene::CheckStop() {
  if (!stopped_ || world_.events.now() <= stopped_at_ + kStopEndsWithin) return;
  const Faults& faults = world_.faults;
  if (faults.count(Fault::kZeroCopyLate) + faults.count(Fault::kTimeJump) + faults.count(Fault::kCompletionLost) > 0) return;
  world_.Violation("AStopIsObeyed: the worker goes on");
}

// *NoSpin*: while nothing moves, a worker's turns are few.
void Scene::CheckNoSpin() {
  const Instant now = world_.events.now();
  if (std::exchange(progress_seen_, world_.progress) != world_.progress) {
    idle_turns_ = 0;
    last_progress_ = now;
    return;
  }
  if (++idle_turns_ > 500 + static_cast<uint64_t>((now - last_progress_) / 2ms)) world_.Violation("NoSpin: turns in which nothing moves");
}

void Scene::TakeRecords() {
  ConnectionRecord record;
  while (records_.Pop(record)) {
    const std::string client = (record.balancer ? record.balancer : record.client).ToSocketAddress().ToString();
    HUD_TRACE(world_, "the log: client ", client, " ", NameOf(record.close), " in=", record.bytes_in, " out=", record.bytes_out);
    // Who was gone before he could be asked has no address.
    if (record.client && !reasons_.emplace(client, record.close).second) world_.Violation("OneCloseReason: two for " + client);
    if (const auto found = by_address_.find(client); found != by_address_.end()) CheckBlame(record, *found->second);
  }
}

// *NobodyIsBlamedForASleep*: the process was away, and is back; who had spoken before it came back is not ended by the clock.
void Scene::CheckBlame(const ConnectionRecord& record, const ClientPeer& client) {
  const SocketAddress& said = client.introduction().client;
  if (record.balancer && !(record.client.ToSocketAddress() == said)) world_.Violation("TheLogNamesTheClient: not " + said.ToString());
  const auto blame = [&](const char* what) {
    world_.Violation(absl::StrCat("NobodyIsBlamedForASleep: ", NameOf(record.close), ", but ", what, "; ", client.Describe()));
  };
  if (record.close == CloseReason::kHelloTimeout) {
    const Endpoint& end = client.proxys_end();
    if (client.HelloIsThere() && !hungry_ && world_.CameInAnAbsence(end.last_came)) blame("its hello had come");
  }
  if (record.close != CloseReason::kIdleTimeout && record.close != CloseReason::kHalfClosedTimeout) return;
  if (client.nodes().empty() || world_.faults.Possible(Fault::kRefusingSocket)) return;
  const Endpoint& node = client.nodes()[0]->proxys_end();
  if (CameUnread(client.proxys_end(), node) || CameUnread(node, client.proxys_end())) blame("bytes had come");
}

// They could have been passed on.
bool Scene::CameUnread(const Endpoint& source, const Endpoint& sink) const {
  return !source.received.empty() && world_.CameInAnAbsence(source.unread_since) && !sink.reset_came && sink.IsWritable();
}

// ---- What holds at the end

void Scene::ExpectZero(const char* what, int64_t value) {
  if (value != 0) world_.Violation(absl::StrCat("AllComesBack: ", what, " is ", value, " at the end"));
}

void Scene::JudgeEnd() {
  TakeRecords();
  ExpectZero("active", counters_.active.Get());
  ExpectZero("private_bytes", counters_.private_bytes.Get());
  ExpectZero("pipes_held", counters_.pipes_held.Get());
  ExpectZero("pipe_bytes", counters_.pipe_bytes.Get());
  ExpectZero("hello_bytes_held", counters_.hello_bytes_held.Get());
  ExpectZero("in_hello", counters_.in_hello.Get());
  ExpectZero("dialing", counters_.dialing.Get());
  ExpectZero("relaying", counters_.relaying.Get());
  ExpectZero("places used", static_cast<int64_t>(places_->used()));
  const bool lost = world_.faults.count(Fault::kCompletionLost) > 0;
  if (!lost) ExpectZero("buffers out", static_cast<int64_t>(features_.buffers) - counters_.buffers_free.Get());
  for (size_t i = 0; i < node_count_; ++i) ExpectZero("active of a node", nodes_.node(NodeIndex(static_cast<uint16_t>(i))).active.load());
  for (size_t i = 0; i < pool_count_; ++i) ExpectZero("active of a pool", nodes_.pool(PoolIndex(static_cast<uint16_t>(i))).active.load());
  int64_t closes = 0;
  for (const Counter& counter : counters_.closes) closes += counter.Get();
  ExpectZero("accepted without a close", counters_.accepted.Get() - closes);
  uint64_t blamed = 0;
  for (size_t i = 0; i < node_count_; ++i) blamed += nodes_.node(NodeIndex(static_cast<uint16_t>(i))).failed_connects.load();
  if (blamed > world_.nodes_faults) world_.Violation("NobodyIsBlamedForASleep: more connects are counted against nodes than were their fault");
  for (const std::string& left : ring_->RequestsLeft()) world_.Violation("NoRequestIsLeftBehind: " + left);
  worker_.reset();
  for (const std::string& open : kernel_.OpenDescriptors()) world_.Violation("EveryDescriptorIsClosed: left open: " + open);
  // What the worker sent last is still on its way.
  const Instant until = world_.events.now() + kCalmEndsWithin;
  if (!calm_) BeCalm();
  while (!AllIsOver() && world_.events.next() < until) world_.events.RunUntil(world_.events.next());
  JudgeStreams();
}

void Scene::JudgeStreams() {
  for (const auto& client : clients_) Judge(*client);
  for (const auto& node : met_) {
    if (node->endpoint().is_unix) continue;  // which cannot be reset
    if (node->client() == nullptr && node->read_a_cut_hello() && node->end() == Peer::End::kFin) {
      world_.Violation(absl::StrCat("ACutHelloIsNoEnd: ", node->name(), " reads a part of a hello and a clean end"));
    }
  }
}

void Scene::Judge(const ClientPeer& client) {
  const auto found = reasons_.find(client.endpoint().local.ToString());
  if (client.nodes().empty() || found == reasons_.end()) return;  // it was never joined with a node
  const bool excused = Excused(found->second, client);
  JudgeDirection(client, *client.nodes()[0], found->second, excused, client.introduction().proxy_header.size());
  JudgeDirection(*client.nodes()[0], client, found->second, excused);
}

bool Scene::MetAShortage(const ClientPeer& client) const {
  if (world_.faults.count(Fault::kNoMemory) > 0) return true;  // it may have been this one's
  return client.proxys_end().met_a_shortage || client.nodes()[0]->proxys_end().met_a_shortage;
}

// Who ends connections for these reasons truncates streams, visibly.
bool Scene::Excused(CloseReason reason, const ClientPeer& client) const {
  switch (reason) {
    case CloseReason::kDone: return false;
    case CloseReason::kClientReset:
    case CloseReason::kNodeReset: return short_patience_ || short_timeouts_;
    case CloseReason::kIdleTimeout:
    case CloseReason::kHalfClosedTimeout: return short_timeouts_;
    case CloseReason::kDrainDeadline: return true;
    case CloseReason::kMadeRoom: return max_connections_ <= 8;
    case CloseReason::kLocalError: return world_.faults.count(Fault::kCompletionLost) > 0 || MetAShortage(client);
    default: return true;  // before it was joined
  }
}

// *ACleanEndIsTheSourcesOwn*: a sink reads FIN only when the source had sent one, and behind all that it sent.
// *WhatCameBeforeAResetIsDelivered*: to a sink that goes on reading, and then the reset.
// *EndsAreNotInvented*: a reset has a cause.
void Scene::JudgeDirection(const Peer& source, const Peer& sink, CloseReason reason, bool excused, size_t not_passed_on) {
  const Endpoint& from = source.proxys_end();
  const auto complain = [&](const char* property) {
    world_.Violation(absl::StrCat(property, ": close=", NameOf(reason), "; the proxy was sent ", from.arrived, " bytes",
                                  from.fin_came ? " and FIN" : "", from.reset_came ? " and RST" : "", "; source ", source.Describe(), "; sink ",
                                  sink.Describe()));
  };
  const bool all = sink.received() == from.arrived - not_passed_on;
  if (sink.end() == Peer::End::kFin) {
    const bool cannot_be_reset = sink.endpoint().is_unix;
    if ((!from.fin_came || !all) && !cannot_be_reset) complain("ACleanEndIsTheSourcesOwn");
    return;
  }
  if (!sink.patient() || excused) return;
  if (sink.end() == Peer::End::kNone) return complain("EverythingEnds");
  // A unix socket tells of a reset before it tells of the end that came earlier.
  const bool over_unix = from.is_unix || sink.endpoint().is_unix;
  if (reason == CloseReason::kDone || (from.fin_came && !over_unix)) return complain("AnEndIsForwardedAsWhatItWas");
  const bool other_went = sink.proxys_end().reset_came;
  if (source.endpoint().vanished) return;  // what it would have said is unknown
  if (from.reset_came && !other_went && !all) return complain("WhatCameBeforeAResetIsDelivered");
  if (!from.reset_came && !other_went && !over_unix) complain("EndsAreNotInvented");
}

uint64_t Scene::bytes() const {
  uint64_t sum = 0;
  for (const auto& client : clients_) sum += client->received();
  for (const auto& node : met_) sum += node->received();
  return sum;
}

std::string Scene::Story() const {
  constexpr const char* kModeNames[] = {"auto", "splice", "copy", "zerocopy"};
  std::string story = absl::StrCat("mode ", kModeNames[static_cast<size_t>(mode_)], ", ", features_.buffers, " buffers of ", features_.buffer_bytes,
                                   features_.bounded_multishot_recv ? "" : ", no multishot receive", features_.silent_sends ? "" : ", no silent sends",
                                   features_.minimum_wait ? "" : ", no minimum wait", options_.relay.zero_copy_send ? "" : ", no zero copy", ", ",
                                   options_.relay.pipes, " pipes\n");
  for (const auto& client : clients_) absl::StrAppend(&story, "  ", client->Describe(), "\n");
  for (const auto& node : met_) absl::StrAppend(&story, "  ", node->Describe(), node->client() ? " of " + node->client()->name() : "", "\n");
  return story;
}

}  // namespace hud::simulation
