#include "tests/simulation/stage.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace hud::simulation {
namespace {

// A scene must hold in whatever order its events come: HUD_SIM_SEED=N tries another one.
uint64_t Seed() {
  const char* seed = std::getenv("HUD_SIM_SEED");
  return seed != nullptr ? std::strtoull(seed, nullptr, 10) : 1;
}

SocketAddress AddressOf(const std::string& text) { return SocketAddress::Parse(text).value(); }

Bytes AsBytes(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

}  // namespace

// ---- Hands

bool Hand::Send(std::string_view bytes) {
  return stage_->Eventually([&] {
    const ssize_t n = bytes.empty() ? 0 : end_->Send(AsBytes(bytes));
    if (n < 0 && n != -EAGAIN) return true;
    bytes.remove_prefix(static_cast<size_t>(std::max<ssize_t>(n, 0)));
    return bytes.empty();
  }, limit_) && bytes.empty();
}

std::string Hand::Receive(size_t n) {
  std::string got(n, 0);
  size_t at = 0;
  stage_->Eventually([&] {
    const ssize_t r = at == n ? 0 : end_->Take(reinterpret_cast<uint8_t*>(got.data()) + at, n - at);
    at += static_cast<size_t>(std::max<ssize_t>(r, 0));
    return at == n || (r <= 0 && r != -EAGAIN);
  }, limit_);
  got.resize(at);
  return got;
}

std::string Hand::HowItEnds() {
  ssize_t r = -EAGAIN;
  uint8_t byte;
  stage_->Eventually([&] { return (r = end_->Take(&byte, 1)) != -EAGAIN; }, limit_);
  if (r > 0) return "bytes";
  if (r == -EAGAIN) return "nothing";
  return end_->fin_came ? "end" : "reset";
}

void Hand::Close() {
  if (end_) std::exchange(end_, nullptr)->LastClose();
}

// ---- The stage

class Stage::Place final : public Destination {
 public:
  Answer Decide() override { return {.after = 100us}; }
  void Connected(const std::shared_ptr<Endpoint>& end) override {
    for (Endpoint* each : {end.get(), end->peer.get()}) each->send_capacity = each->receive_capacity = kSocketBytes;
    queue.push_back(end);
  }
  std::deque<std::shared_ptr<Endpoint>> queue;
};

Stage::Stage(const TestBedOptions& options, RingFeatures features) : options_(options), world_(Seed()) {
  if (options.plain_features) features.bounded_multishot_recv = features.silent_sends = features.minimum_wait = false;
  world_.faults.ForbidAll();
  for (int i = 0; i < options.nodes; ++i) {
    addresses_.push_back(AddressOf(absl::StrCat("10.0.0.", i + 1, ":443")));
    places_to_go_.push_back(std::make_unique<Place>());
    kernel_.SetDestination(addresses_.back(), places_to_go_.back().get());
  }
  routes_ = std::make_unique<SnapshotChannel<RouteTable>>(1, testing::TableFor(options, addresses_));
  places_ = std::make_unique<Places>(testing::LimitsOf(options), SipKey{1, 2});
  std::vector<ListeningSocket> sockets;
  for (int port : {443, 444}) {
    listeners_.push_back(kernel_.Listen(AddressOf(absl::StrCat("10.9.9.9:", port)), 128));
    sockets.push_back({ListenerIndex(0), Fd(kernel_.Give(listeners_.back()))});
  }
  auto simulated = std::make_unique<SimulatedRing>(kernel_, features);
  ring_ = simulated.get();
  std::unique_ptr<Ring> ring = std::move(simulated);
  if (options.script != nullptr) ring = std::make_unique<testing::ScriptedRing>(std::move(ring), *options.script);
  worker_ = std::make_unique<Worker>(testing::WorkerOptions(options, !options.plain_features), RoutingState{routes_.get(), &affinity_, &nodes_}, *places_,
                                     std::move(ring), kernel_, std::move(sockets), Fd(kernel_.Give(wake_)), orders_, counters_, records_);
  if (options.with_worker) options.with_worker(*worker_);
}

Stage::~Stage() {
  orders_.Stop();
  Wake();
  EXPECT_TRUE(Eventually([this] { return counters_.active.Get() == 0; }));
  const Instant until = world_.events.now() + 1min;
  while (worker_->RunTurn()) {
    if (world_.events.now() > until) {
      ADD_FAILURE() << "the worker does not end";
      break;
    }
  }
  ExpectAllCameBack();
  worker_.reset();
  for (const std::string& open : kernel_.OpenDescriptors()) ADD_FAILURE() << "left open: " << open;
  for (const std::string& violation : world_.violations) ADD_FAILURE() << violation;
}

void Stage::ExpectAllCameBack() {
  EXPECT_EQ(counters_.private_bytes.Get(), 0);
  EXPECT_EQ(counters_.pipes_held.Get(), 0);
  EXPECT_EQ(counters_.hello_bytes_held.Get(), 0);
  EXPECT_EQ(counters_.in_hello.Get() + counters_.dialing.Get() + counters_.relaying.Get(), 0);
  EXPECT_EQ(places_->used(), 0u);
  for (int i = 0; i < options_.nodes; ++i) EXPECT_EQ(node(i).active.load(), 0);
  for (const std::string& left : ring_->RequestsLeft()) ADD_FAILURE() << left;
}

Hand Stage::Client(const char* from, int socket) {
  const auto end = listeners_[static_cast<size_t>(socket)]->ConnectFrom(AddressOf(absl::StrCat(from, ":", 1024 + clients_++)));
  for (Endpoint* each : {end.get(), end->peer.get()}) each->send_capacity = each->receive_capacity = kSocketBytes;
  return Hand(*this, end);
}

Hand Stage::Node(int i) {
  std::deque<std::shared_ptr<Endpoint>>& queue = places_to_go_[static_cast<size_t>(i)]->queue;
  if (!Eventually([&] { return !queue.empty(); })) {
    ADD_FAILURE() << "nobody connected";
    return Hand(*this, std::make_shared<Endpoint>(world_, "nobody", false));
  }
  Hand node(*this, queue.front());
  queue.pop_front();
  return node;
}

bool Stage::Eventually(const std::function<bool()>& condition, Duration limit) {
  const Instant until = world_.events.now() + limit;
  world_.events.At(until, [] {});  // so that a wait does not go past it
  bool holds = false;
  const auto over = [&] { return (holds = holds || condition()) || world_.events.now() >= until; };
  world_.interrupts = over;
  while (!over()) {
    ended_ = !worker_->RunTurn();
    if (ended_) world_.events.RunUntil(world_.events.next());
  }
  world_.interrupts = nullptr;
  return holds;
}

int64_t Stage::TurnsIn(Duration time) {
  const int64_t before = counters_.loops.Get();
  Pass(time);
  return counters_.loops.Get() - before;
}

}  // namespace hud::simulation
