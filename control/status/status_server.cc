#include "control/status/status_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/serializer.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <cerrno>
#include <cstring>
#include <list>
#include <sstream>
#include <tuple>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "control/process/event_loop.h"
#include "control/status/gzip.h"

namespace hud {
namespace {

namespace http = boost::beast::http;

Instant Now() { return std::chrono::steady_clock::now(); }

absl::Status Failure(std::string_view what, const SocketAddress& address) {
  return absl::UnavailableError(absl::StrCat("status.bind: cannot ", absl::string_view(what.data(), what.size()), " ",
                                             address.ToString(), ": ", std::strerror(errno),
                                             errno == EADDRINUSE ? "; is another instance running?" : ""));
}

// A socket file that nobody answers at was left behind by a process that was killed.
void RemoveDeadSocketFile(const SocketAddress& address) {
  const Bytes path = address.host_bytes();
  if (path.empty() || path[0] == 0) return;
  Fd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!probe || ::connect(probe.get(), address.data(), address.size()) == 0 || errno != ECONNREFUSED) return;
  ::unlink(std::string(path.begin(), path.end()).c_str());
}

constexpr size_t kWorthCompressing = 1024;
constexpr int kBacklog = 1024;  // who waits longest is accepted next, whoever it is

// Enough for one header and for a parser that never sees a body.
using RequestParser = http::request_parser<http::empty_body>;

}  // namespace

// ---- The answers ----------------------------------------------------------------------------------------------------

bool StatusServer::IsOwnHost(std::string_view host, const std::vector<std::string>& names) {
  absl::string_view text(host.data(), host.size());
  absl::string_view port;
  if (const size_t colon = text.rfind(':'); colon != absl::string_view::npos && text.find(']', colon) == absl::string_view::npos) {
    port = text.substr(colon + 1);
    text = text.substr(0, colon);
  }
  if (!std::all_of(port.begin(), port.end(), absl::ascii_isdigit)) return false;
  if (text.size() > 2 && text.front() == '[' && text.back() == ']') {
    in6_addr six{};
    return ::inet_pton(AF_INET6, std::string(text.substr(1, text.size() - 2)).c_str(), &six) == 1;
  }
  std::string name = absl::AsciiStrToLower(text);
  if (name.ends_with('.')) name.pop_back();
  in_addr four{};
  return name == "localhost" || ::inet_pton(AF_INET, name.c_str(), &four) == 1 ||
         std::find(names.begin(), names.end(), name) != names.end();
}

std::string StatusServer::Respond(const std::vector<Page>& pages, const HostNames& host_names, const Request& request,
                                  StatusServerCounters* counters) {
  const std::string_view path = request.target.substr(0, request.target.find('?'));
  const auto page = std::find_if(pages.begin(), pages.end(), [&](const Page& p) { return p.path == path; });

  http::response<http::string_body> response;
  response.version(11);
  response.set(http::field::content_type, "text/plain; charset=utf-8");
  std::atomic<uint64_t>* counter = &counters->refused;
  if (!request.host.empty() && !IsOwnHost(request.host, host_names())) {
    counter = &counters->foreign_host;
    response.result(http::status::misdirected_request);
    response.body() = absl::StrCat("This is not a host name of the status address. Use its IP address or localhost, or write the name ",
                                   "into the configuration: status: {hosts: [NAME]}\n");
  } else if (request.method != "GET" && request.method != "HEAD") {
    response.result(http::status::method_not_allowed);
    response.set(http::field::allow, "GET, HEAD");
    response.body() = "Only GET is served here.\n";
  } else if (page == pages.end()) {
    response.result(http::status::not_found);
    response.body() = "There are /, /status, /metrics and /ready here.\n";
  } else {
    counter = &counters->answered;
    const bool is_well = !page->is_well || page->is_well();
    response.result(is_well ? http::status::ok : http::status::service_unavailable);
    response.set(http::field::content_type, page->content_type);
    response.body() = page->body();
    response.set(http::field::vary, "Accept-Encoding");
    if (response.body().size() >= kWorthCompressing && AcceptsGzip(request.accept_encoding)) {
      if (std::optional<std::string> smaller = Gzip(response.body())) {
        response.set(http::field::content_encoding, "gzip");
        response.body() = *std::move(smaller);
      }
    }
  }
  counter->fetch_add(1, std::memory_order_relaxed);
  response.set(http::field::connection, "close");
  response.set(http::field::cache_control, "no-store");
  response.set("X-Content-Type-Options", "nosniff");
  response.set("Content-Security-Policy", "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
                                          "connect-src 'self'; frame-ancestors 'none'");
  response.prepare_payload();
  std::ostringstream out;
  out << response.base();
  if (request.method != "HEAD") out << response.body();
  return std::move(out).str();
}

// ---- The sockets ----------------------------------------------------------------------------------------------------

struct StatusServer::Impl {
  struct Client {
    Fd fd;
    EventLoop::Id watch = EventLoop::Id::kNone;
    SourceKey source;  // on a unix socket all are one
    Instant began;     // was accepted, or had asked
    Instant active;    // began, or took some of its answer
    Instant deadline;
    RequestParser parser;
    std::string received;   // what the parser has not consumed
    std::string response;
    size_t sent = 0;
    bool answering = false;
    bool lingering = false;  // all is sent; what the client still says is read and thrown away, so that no reset eats it
  };
  using Clients = std::list<Client>;

  std::unique_ptr<EventLoop> loop;
  struct Listener {
    Fd fd;
    EventLoop::Id watch = EventLoop::Id::kNone;
  };
  std::vector<Listener> listeners;
  Instant accept_again = Instant::min();  // after an error that even the reserve did not help with
  Fd stop;
  std::atomic<bool> stopping{false};
  std::vector<Page> pages;
  HostNames host_names;
  StatusServerCounters* counters = nullptr;
  Clients clients;
  std::vector<Fd> reserve;

  void Run();
  void FillReserve();
  bool Watch();
  void SetAccepting(bool accepting);
  Fd AcceptOne(const Fd& listener, SourceKey* source, bool* again);
  void Accept(const Fd& listener);
  void Admit(Fd fd, const SourceKey& source);
  bool HasRoom() const;
  void MakeRoom(const SourceKey& newcomer);
  void Ready(Clients::iterator client);
  bool Read(Client& client);
  bool Parse(Client& client);
  bool Write(Client& client);
  void StartAnswer(Client& client, std::string response);
  void Close(Clients::iterator client);
  Duration UntilNextDeadline() const;
  void CloseLate();
};

absl::StatusOr<Fd> StatusServer::Bind(const SocketAddress& address) {
  Fd fd(::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return Failure("make a socket for", address);
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (address.IsUnix()) RemoveDeadSocketFile(address);
  if (::bind(fd.get(), address.data(), address.size()) != 0) return Failure("bind", address);
  if (::listen(fd.get(), kBacklog) != 0) return Failure("listen on", address);
  return fd;
}

absl::StatusOr<std::unique_ptr<StatusServer>> StatusServer::Start(std::vector<Fd> listeners,
                                                                  std::vector<Page> pages, HostNames host_names,
                                                                  StatusServerCounters* counters) {
  auto impl = std::make_unique<Impl>();
  absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create();
  if (!loop.ok()) return loop.status();
  impl->loop = *std::move(loop);
  impl->stop = Fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!impl->stop) return absl::InternalError(absl::StrCat("cannot create an eventfd: ", std::strerror(errno)));
  for (Fd& fd : listeners) impl->listeners.push_back({std::move(fd), EventLoop::Id::kNone});
  impl->pages = std::move(pages);
  impl->host_names = std::move(host_names);
  impl->counters = counters;
  impl->FillReserve();
  Impl* raw = impl.get();
  if (!raw->Watch()) {
    return absl::InternalError(absl::StrCat("cannot watch the status socket: ", std::strerror(errno)));
  }
  auto server = std::unique_ptr<StatusServer>(new StatusServer(std::move(impl)));
  server->thread_ = std::thread([raw] { raw->Run(); });
  return server;
}

StatusServer::StatusServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

StatusServer::~StatusServer() {
  if (!thread_.joinable()) return;
  impl_->stopping.store(true);
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(impl_->stop.get(), &one, sizeof one);
  thread_.join();
}

void StatusServer::Impl::Run() {
  ::pthread_setname_np(::pthread_self(), "status");
  while (!stopping.load()) {
    loop->RunOnce(UntilNextDeadline());
    CloseLate();
    if (accept_again != Instant::min() && Now() >= accept_again) {
      accept_again = Instant::min();
      SetAccepting(true);
    }
  }
}

bool StatusServer::Impl::Watch() {
  bool ok = loop->Add(stop.get(), EPOLLIN, [](uint32_t) {}) != EventLoop::Id::kNone;
  for (Listener& listener : listeners) {
    listener.watch = loop->Add(listener.fd.get(), EPOLLIN, [this, &listener](uint32_t) { Accept(listener.fd); });
    ok = ok && listener.watch != EventLoop::Id::kNone;
  }
  return ok;
}

void StatusServer::Impl::SetAccepting(bool accepting) {
  for (const Listener& listener : listeners) loop->Change(listener.watch, accepting ? uint32_t{EPOLLIN} : 0);
}

void StatusServer::Impl::FillReserve() {
  while (reserve.size() < kReserveDescriptors) {
    Fd fd(::fcntl(stop.get(), F_DUPFD_CLOEXEC, 0));
    if (!fd) return;
    reserve.push_back(std::move(fd));
  }
}

// With no descriptor left, one of the reserve makes room; when that client ends, the reserve is filled again first.
Fd StatusServer::Impl::AcceptOne(const Fd& listener, SourceKey* source, bool* again) {
  while (true) {
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    Fd fd(::accept4(listener.get(), reinterpret_cast<sockaddr*>(&peer), &size, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd) *source = SourceKey::Of(SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&peer), size));
    *again = static_cast<bool>(fd) || errno == ECONNABORTED || errno == EINTR;
    if (fd || (errno != EMFILE && errno != ENFILE) || reserve.empty()) return fd;
    reserve.pop_back();
  }
}

void StatusServer::Impl::Accept(const Fd& listener) {
  bool again = true;
  for (size_t turn = 0; again && turn < kMaxClients; ++turn) {
    if (!HasRoom()) {  // the next ones wait in the backlog meanwhile
      accept_again = Now() + kGrace;
      return SetAccepting(false);
    }
    SourceKey source;
    Fd fd = AcceptOne(listener, &source, &again);
    if (fd) {
      Admit(std::move(fd), source);
    } else if (!again && errno != EAGAIN) {
      // Out of memory, or of descriptors and reserve: a level-triggered retry at once would spin.
      accept_again = Now() + std::chrono::milliseconds(100);
      SetAccepting(false);
    }
  }
}

// A place that is free, or one whose client has had time to ask and to be answered.
bool StatusServer::Impl::HasRoom() const {
  if (clients.size() < kMaxClients) return true;
  const Instant now = Now();
  return std::any_of(clients.begin(), clients.end(), [&](const Client& c) { return c.lingering || now - c.began >= kGrace; });
}

// Of the source that would have most places, the newcomer's own included: whoever has its answer, or else whoever has done
// nothing for longest. A request that comes in drops is not doing something.
void StatusServer::Impl::MakeRoom(const SourceKey& newcomer) {
  const auto held = [&](const SourceKey& source) {
    const auto is_its = [&](const Client& client) { return client.source == source; };
    return std::count_if(clients.begin(), clients.end(), is_its) + (source == newcomer ? 1 : 0);
  };
  const auto rank = [&](const Client& client) { return std::tuple(-held(client.source), !client.lingering, client.active); };
  const auto victim = std::min_element(clients.begin(), clients.end(),
                                       [&](const Client& a, const Client& b) { return rank(a) < rank(b); });
  if (victim == clients.end()) return;
  if (!victim->lingering) counters->displaced.fetch_add(1, std::memory_order_relaxed);
  Close(victim);
}

void StatusServer::Impl::Admit(Fd fd, const SourceKey& source) {
  if (clients.size() >= kMaxClients) MakeRoom(source);
  const auto client = clients.emplace(clients.end());
  client->fd = std::move(fd);
  client->source = source;
  client->began = client->active = Now();
  client->deadline = client->began + kRequestTime;
  client->parser.header_limit(kMaxRequestBytes);
  client->parser.body_limit(0);
  client->watch = loop->Add(client->fd.get(), EPOLLIN, [this, client](uint32_t) { Ready(client); });
  if (client->watch == EventLoop::Id::kNone) return Close(client);
  Ready(client);  // under load the request is there already
}

void StatusServer::Impl::Close(Clients::iterator client) {
  loop->Remove(client->watch);
  clients.erase(client);
  FillReserve();
}

void StatusServer::Impl::Ready(Clients::iterator client) {
  const bool goes_on = client->answering && !client->lingering ? Write(*client) : Read(*client);
  if (!goes_on) Close(client);
}

// One piece a turn: a client that sends without end shares the loop with the others. False: it is done with.
bool StatusServer::Impl::Read(Client& client) {
  char buffer[4096];
  const ssize_t n = ::recv(client.fd.get(), buffer, sizeof buffer, 0);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  if (client.lingering) return true;
  client.received.append(buffer, static_cast<size_t>(n));
  return Parse(client);
}

bool StatusServer::Impl::Parse(Client& client) {
  boost::system::error_code error;
  const size_t used = client.parser.put(boost::asio::buffer(client.received), error);
  client.received.erase(0, used);
  if (error == http::error::need_more) {
    if (client.received.size() <= kMaxRequestBytes) return true;
    error = http::error::header_limit;
  }
  // Two names for one host (RFC 9112, 3.2): who is meant is not for us to guess.
  const bool two_hosts = !error && client.parser.is_header_done() && client.parser.get().count(http::field::host) > 1;
  if ((error && error != http::error::body_limit) || two_hosts) {
    counters->refused.fetch_add(1, std::memory_order_relaxed);
    StartAnswer(client, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
  } else if (error || client.parser.is_header_done()) {
    const auto& request = client.parser.get();
    const auto view = [](auto text) { return std::string_view(text.data(), text.size()); };
    StartAnswer(client, Respond(pages, host_names,
                                {.method = view(request.method_string()),
                                 .target = view(request.target()),
                                 .host = client.source.kind == SourceKey::Kind::kUnknown ? std::string_view() : view(request[http::field::host]),
                                 .accept_encoding = view(request[http::field::accept_encoding])},
                                counters));
  } else {
    return true;
  }
  return Write(client);
}

void StatusServer::Impl::StartAnswer(Client& client, std::string response) {
  client.response = std::move(response);
  client.answering = true;
  client.began = client.active = Now();
  client.deadline = client.began + kResponseTime;
}

bool StatusServer::Impl::Write(Client& client) {
  const ssize_t n = ::send(client.fd.get(), client.response.data() + client.sent, client.response.size() - client.sent,
                           MSG_NOSIGNAL);
  if (n < 0 && errno != EAGAIN && errno != EINTR) return false;
  if (n > 0) {
    client.sent += static_cast<size_t>(n);
    client.active = Now();
  }
  if (client.sent < client.response.size()) {
    loop->Change(client.watch, EPOLLOUT);
    return true;
  }
  // A close with unread bytes would be a reset, and a reset may overtake the answer.
  client.lingering = true;
  client.response = {};
  client.deadline = std::min(client.deadline, Now() + std::chrono::seconds(1));
  ::shutdown(client.fd.get(), SHUT_WR);
  loop->Change(client.watch, EPOLLIN);
  return true;
}

Duration StatusServer::Impl::UntilNextDeadline() const {
  Instant next = accept_again != Instant::min() ? accept_again : Instant::max();
  for (const Client& client : clients) next = std::min(next, client.deadline);
  if (next == Instant::max()) return std::chrono::seconds(60);
  return std::max(Duration(0), Duration(next - Now()));
}

void StatusServer::Impl::CloseLate() {
  const Instant now = Now();
  for (auto client = clients.begin(); client != clients.end();) {
    const auto next = std::next(client);
    if (client->deadline <= now) Close(client);
    client = next;
  }
}

}  // namespace hud
