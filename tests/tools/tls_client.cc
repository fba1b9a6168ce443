// A TLS client that comes back: the judge of resumption in the demo, the e2e tests and the server tables.
// Each of --clients identities makes one full connection, then comes back --rounds times with the newest session that it
// was given. What it offered and what was accepted is counted here, by the client, and printed as one line of JSON.
//
//   tls_client --address 127.0.0.1:443 --mode tls13-ticket [--sni NAME] [--clients N] [--rounds N] [--wait-ms N]
//              [--threads N] [--certificate FILE --key FILE] [--alpn LIST] [--groups LIST] [--hold | --step] [--verbose]
//
// --hold: after the first, full connections it prints "held" and comes back only when a line arrives on its input, so that
// whoever measures can tell the two apart. --step: the same before each round.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

enum class Mode { kTls12Ticket, kTls12Id, kTls13Ticket, kTls13Stateful };

struct Options {
  std::string address;
  std::string sni = "www.example.com";
  Mode mode = Mode::kTls13Ticket;
  int clients = 20;
  int rounds = 4;
  int wait_ms = 0;      // between rounds: exact feeds are a little behind
  int threads = 4;
  std::string certificate, key, alpn, groups;
  bool hold = false;  // after the first round, until a line comes
  bool step = false;  // after each round but the last
  bool verbose = false;
};

struct SessionDeleter {
  void operator()(SSL_SESSION* s) const { SSL_SESSION_free(s); }
  void operator()(SSL* s) const { SSL_free(s); }
  void operator()(SSL_CTX* s) const { SSL_CTX_free(s); }
};
using SessionPtr = std::unique_ptr<SSL_SESSION, SessionDeleter>;
using SslPtr = std::unique_ptr<SSL, SessionDeleter>;
using ContextPtr = std::unique_ptr<SSL_CTX, SessionDeleter>;

struct NodeCount {
  long full = 0, offered = 0, resumed = 0;
};

// What all threads add to, under one lock: a connection is slow beside it.
struct Totals {
  std::mutex lock;
  long connections = 0, full = 0, offered = 0, resumed = 0, errors = 0, without_session = 0;
  std::map<std::string, NodeCount> nodes;
  std::map<std::string, long> error_texts;
};

sockaddr_storage ParseAddress(const std::string& text, socklen_t* size) {
  sockaddr_storage storage{};
  if (text.starts_with("unix:")) {
    auto* un = reinterpret_cast<sockaddr_un*>(&storage);
    un->sun_family = AF_UNIX;
    std::strncpy(un->sun_path, text.c_str() + 5, sizeof un->sun_path - 1);
    *size = sizeof *un;
    return storage;
  }
  const size_t colon = text.rfind(':');
  std::string host = text.substr(0, colon);
  const auto port = static_cast<uint16_t>(std::atoi(text.c_str() + colon + 1));
  if (host.starts_with("[")) {
    host = host.substr(1, host.size() - 2);
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&storage);
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    if (inet_pton(AF_INET6, host.c_str(), &in6->sin6_addr) == 1) *size = sizeof *in6;
    return storage;
  }
  auto* in = reinterpret_cast<sockaddr_in*>(&storage);
  in->sin_family = AF_INET;
  in->sin_port = htons(port);
  if (inet_pton(AF_INET, host.c_str(), &in->sin_addr) == 1) *size = sizeof *in;
  return storage;
}

int Connect(const std::string& address) {
  socklen_t size = 0;
  const sockaddr_storage storage = ParseAddress(address, &size);
  const int fd = socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval patience{10, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&storage), size) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

// The newest session of the client that this SSL belongs to, kept by the callback below.
int RememberSession(SSL* ssl, SSL_SESSION* session) {
  auto* slot = static_cast<SessionPtr*>(SSL_get_app_data(ssl));
  slot->reset(session);
  return 1;  // ours now
}

ContextPtr MakeContext(const Options& options) {
  ContextPtr context(SSL_CTX_new(TLS_client_method()));
  const bool tls13 = options.mode == Mode::kTls13Ticket || options.mode == Mode::kTls13Stateful;
  const int version = tls13 ? TLS1_3_VERSION : TLS1_2_VERSION;
  SSL_CTX_set_min_proto_version(context.get(), version);
  SSL_CTX_set_max_proto_version(context.get(), version);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_NONE, nullptr);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(context.get(), RememberSession);
  // A server that wants session ids must not be asked for a ticket.
  if (options.mode == Mode::kTls12Id) SSL_CTX_set_options(context.get(), SSL_OP_NO_TICKET);
  SSL_CTX_set_options(context.get(), SSL_OP_IGNORE_UNEXPECTED_EOF);
  if (!options.groups.empty()) SSL_CTX_set1_groups_list(context.get(), options.groups.c_str());
  if (!options.alpn.empty()) {
    std::string wire;
    wire += static_cast<char>(options.alpn.size());
    wire += options.alpn;
    SSL_CTX_set_alpn_protos(context.get(), reinterpret_cast<const unsigned char*>(wire.data()),
                            static_cast<unsigned>(wire.size()));
  }
  if (!options.certificate.empty() &&
      (SSL_CTX_use_certificate_file(context.get(), options.certificate.c_str(), SSL_FILETYPE_PEM) != 1 ||
       SSL_CTX_use_PrivateKey_file(context.get(), options.key.c_str(), SSL_FILETYPE_PEM) != 1)) {
    std::fprintf(stderr, "tls_client: cannot use --certificate %s with --key %s\n", options.certificate.c_str(),
                 options.key.c_str());
    std::exit(2);
  }
  return context;
}

// Is there in this session what this mode comes back with? A TLS 1.2 session without ticket must have an id, and so on.
bool Offers(const Options& options, SSL_SESSION* session) {
  if (session == nullptr || SSL_SESSION_is_resumable(session) != 1) return false;
  unsigned id_length = 0;
  SSL_SESSION_get_id(session, &id_length);
  if (options.mode == Mode::kTls12Id) return id_length > 0 && SSL_SESSION_has_ticket(session) == 0;
  return SSL_SESSION_has_ticket(session) == 1;
}

std::string LastError(const char* what) {
  const unsigned long code = ERR_get_error();
  std::string text = what;
  if (code != 0) text += std::string(": ") + ERR_reason_error_string(code);
  return text;
}

// A request and its answer to the end: TLS 1.3 tickets come with it. Returns the whole answer.
std::string Exchange(SSL* ssl, const Options& options) {
  const std::string request = "GET / HTTP/1.1\r\nHost: " + options.sni + "\r\nConnection: close\r\n\r\n";
  if (SSL_write(ssl, request.data(), static_cast<int>(request.size())) <= 0) return {};
  std::string answer;
  char piece[16384];
  for (int n; (n = SSL_read(ssl, piece, sizeof piece)) > 0;) answer.append(piece, static_cast<size_t>(n));
  return answer;
}

// The value of the header that tells which node answered.
std::string NodeOf(std::string_view answer) {
  for (std::string_view name : {"X-Node: ", "x-node: "}) {
    const size_t at = answer.find(name);
    if (at == std::string_view::npos) continue;
    const size_t from = at + name.size();
    return std::string(answer.substr(from, answer.find('\r', from) - from));
  }
  return "?";
}

// What the macro SSL_set_tlsext_host_name does, without its old-style cast.
void SetServerName(SSL* ssl, std::string name) {
  SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, name.data());
}

// One connection of one client. `session` is what it has from before, and afterwards what it has now.
void ConnectOnce(const Options& options, SSL_CTX* context, SessionPtr* session, Totals* totals) {
  SslPtr ssl(SSL_new(context));
  SSL_set_app_data(ssl.get(), session);
  if (!options.sni.empty()) SetServerName(ssl.get(), options.sni);
  const bool offered = Offers(options, session->get());
  if (offered) SSL_set_session(ssl.get(), session->get());
  const bool lacks_session = !offered && *session != nullptr;
  ERR_clear_error();
  std::string error, answer;
  const int fd = Connect(options.address);
  bool resumed = false;
  if (fd < 0) {
    error = std::string("connect: ") + std::strerror(errno);
  } else {
    SSL_set_fd(ssl.get(), fd);
    if (SSL_connect(ssl.get()) != 1) {
      error = LastError("handshake");
    } else {
      resumed = SSL_session_reused(ssl.get()) == 1;
      answer = Exchange(ssl.get(), options);
      if (answer.empty()) error = LastError("no answer");
      SSL_shutdown(ssl.get());
    }
    close(fd);
  }
  const std::string node = NodeOf(answer);
  if (options.verbose)
    std::fprintf(stderr, "%s %s %s %s\n", node.c_str(), offered ? "offered" : "-", resumed ? "resumed" : "full", error.c_str());
  std::lock_guard hold(totals->lock);
  ++totals->connections;
  if (!error.empty()) {
    ++totals->errors;
    ++totals->error_texts[error];
  }
  if (lacks_session) ++totals->without_session;
  NodeCount& count = totals->nodes[node];
  if (offered) ++totals->offered, ++count.offered;
  if (resumed) ++totals->resumed, ++count.resumed;
  if (!offered && error.empty()) ++totals->full, ++count.full;
}

// One round: every client connects once, spread over the threads, in a random order: were it always the same one, a round
// robin would send every client to the same wrong node for ever (or to the right one).
void Round(const Options& options, SSL_CTX* context, std::vector<SessionPtr>* sessions, Totals* totals) {
  std::vector<size_t> order(sessions->size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::shuffle(order.begin(), order.end(), std::mt19937(std::random_device()()));
  std::atomic<size_t> next{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < options.threads; ++i)
    threads.emplace_back([&] {
      for (size_t mine; (mine = next.fetch_add(1)) < sessions->size();)
        ConnectOnce(options, context, &(*sessions)[order[mine]], totals);
    });
}

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) >= 0x20) out += c;
  }
  return out + "\"";
}

void Print(const Totals& totals) {
  std::printf("{\"connections\": %ld, \"full\": %ld, \"offered\": %ld, \"resumed\": %ld, \"errors\": %ld, \"without_session\": %ld, \"nodes\": {",
              totals.connections, totals.full, totals.offered, totals.resumed, totals.errors, totals.without_session);
  const char* comma = "";
  for (const auto& [name, count] : totals.nodes) {
    std::printf("%s%s: {\"full\": %ld, \"offered\": %ld, \"resumed\": %ld}", comma, Quoted(name).c_str(), count.full,
                count.offered, count.resumed);
    comma = ", ";
  }
  std::printf("}, \"error_texts\": {");
  comma = "";
  for (const auto& [text, count] : totals.error_texts) {
    std::printf("%s%s: %ld", comma, Quoted(text).c_str(), count);
    comma = ", ";
  }
  std::printf("}}\n");
}

void Hold() {
  std::printf("held\n");
  std::fflush(stdout);
  for (int c; (c = std::getchar()) != EOF && c != '\n';) {
  }
}

bool ReadMode(std::string_view text, Mode* mode) {
  if (text == "tls12-ticket") *mode = Mode::kTls12Ticket;
  else if (text == "tls12-id") *mode = Mode::kTls12Id;
  else if (text == "tls13-ticket") *mode = Mode::kTls13Ticket;
  else if (text == "tls13-stateful") *mode = Mode::kTls13Stateful;
  else return false;
  return true;
}

bool ReadOptions(int argc, char** argv, Options* options) {
  const std::map<std::string, std::string*> texts = {
      {"--address", &options->address}, {"--sni", &options->sni},   {"--certificate", &options->certificate},
      {"--key", &options->key},         {"--alpn", &options->alpn}, {"--groups", &options->groups}};
  const std::map<std::string, int*> numbers = {{"--clients", &options->clients},
                                               {"--rounds", &options->rounds},
                                               {"--wait-ms", &options->wait_ms},
                                               {"--threads", &options->threads}};
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--verbose") {
      options->verbose = true;
      continue;
    }
    if (name == "--hold" || name == "--step") {
      (name == "--hold" ? options->hold : options->step) = true;
      continue;
    }
    if (++i >= argc) return false;
    if (auto text = texts.find(name); text != texts.end()) *text->second = argv[i];
    else if (auto number = numbers.find(name); number != numbers.end()) *number->second = std::atoi(argv[i]);
    else if (name != "--mode" || !ReadMode(argv[i], &options->mode)) return false;
  }
  return !options->address.empty();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!ReadOptions(argc, argv, &options)) {
    std::fprintf(stderr, "usage: tls_client --address HOST:PORT --mode tls12-ticket|tls12-id|tls13-ticket|tls13-stateful "
                         "[--sni NAME] [--clients N] [--rounds N] [--wait-ms N] [--threads N] ...\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  const ContextPtr context = MakeContext(options);
  std::vector<SessionPtr> sessions(static_cast<size_t>(options.clients));
  Totals totals;
  for (int round = 0; round <= options.rounds; ++round) {
    if (round > 0) std::this_thread::sleep_for(std::chrono::milliseconds(options.wait_ms));
    if (options.step ? round > 0 : options.hold && round == 1) Hold();
    Round(options, context.get(), &sessions, &totals);
  }
  Print(totals);
  return 0;
}
