// hud-load: load and nodes for measuring a TLS pass-through proxy.
//   hud-load server --listen ADDRESS:PORT
//   hud-load client --connect ADDRESS:PORT --load exchange|upload|download|connect|idle|mixed
// Exit status of the client: 0, or 2 when it could not measure (a message on standard error), or 3 when more than 1 %
// failed.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>

#include "perf/load/client.h"
#include "perf/load/server.h"
#include "perf/load/socket.h"

namespace hud::load {
namespace {

constexpr int kCannot = 2;
constexpr int kTooManyFailures = 3;

int Refuse(const absl::Status& status) {
  std::fprintf(stderr, "hud-load: %s\n", std::string(status.message()).c_str());
  return kCannot;
}

struct ServerArguments {
  std::string listen;
  int threads = 1;
};

CLI::App* DescribeServer(CLI::App& app, ServerArguments& arguments) {
  CLI::App* server = app.add_subcommand("server", "Answer what the client asks for, until SIGTERM");
  server->add_option("--listen", arguments.listen, "Address and port, or unix:PATH")->required();
  server->add_option("--threads", arguments.threads, "Each with its own listening socket")->check(CLI::Range(1, 64));
  return server;
}

int RunServer(const ServerArguments& arguments) {
  const absl::StatusOr<SocketAddress> address = SocketAddress::Parse(arguments.listen);
  if (!address.ok()) return Refuse(address.status());
  RaiseDescriptorLimit();
  const absl::Status status = Serve(*address, arguments.threads);
  return status.ok() ? 0 : Refuse(status);
}

struct ClientArguments {
  std::string connect;
  std::string end = "fin";
  std::string token = "none";
  ClientOptions options;
};

const std::map<std::string, Operation> kLoads = {{"exchange", Operation::kExchange}, {"upload", Operation::kUpload},
                                                 {"download", Operation::kDownload}, {"connect", Operation::kConnect},
                                                 {"idle", Operation::kIdle},         {"mixed", Operation::kDownload}};

CLI::App* DescribeClient(CLI::App& app, ClientArguments& arguments) {
  ClientOptions& options = arguments.options;
  CLI::App* client = app.add_subcommand("client", "Load a server or the proxy before it, and print a line of JSON");
  client->add_option("--connect", arguments.connect, "Address and port, or unix:PATH")->required();
  client->add_option("--load", options.load, "What happens on each connection")
      ->required()
      ->check(CLI::IsMember(kLoads));
  client->add_option("--connections", options.connections)->check(CLI::Range(1, 1'000'000));
  client->add_option("--request", options.request_bytes, "Bytes of an exchange's request")
      ->check(CLI::Range(1u, 1u << 30));
  client->add_option("--response", options.response_bytes, "Bytes of an answer")->check(CLI::Range(1u, 1u << 30));
  client->add_option("--end", arguments.end, "How a connection of load connect ends")
      ->check(CLI::IsMember({"fin", "rst"}));
  client
      ->add_option("--rate", options.rate,
                   "Exchanges a second over all connections, whatever their latency; 0: as fast as they go")
      ->check(CLI::Range(0.0, 1e7));
  client->add_option("--warmup", options.warmup_seconds, "Seconds between all up and the window")
      ->check(CLI::Range(0.0, 60.0));
  client->add_option("--seconds", options.seconds, "Length of the window")->check(CLI::Range(0.01, 600.0));
  client->add_option("--server-name", options.hello.server_name);
  client->add_option("--hello-bytes", options.hello.bytes, "Length of the ClientHello's record")
      ->check(CLI::Range(1, 20'000));
  client->add_option("--token", arguments.token, "psk: offer a ticket")->check(CLI::IsMember({"psk", "none"}));
  client->add_option("--pids", options.pids, "Processes whose CPU time is reported")->delimiter(',');
  client->add_option("--threads", options.threads)->check(CLI::Range(1, 64));
  return client;
}

int RunClientWith(ClientArguments& arguments) {
  ClientOptions& options = arguments.options;
  const absl::StatusOr<SocketAddress> target = SocketAddress::Parse(arguments.connect);
  if (!target.ok()) return Refuse(target.status());
  options.target = *target;
  options.operation = kLoads.at(options.load);
  options.one_exchanges = options.load == "mixed";
  if (options.rate > 0 && options.operation != Operation::kExchange && !options.one_exchanges) {
    return Refuse(absl::InvalidArgumentError("--rate paces exchanges: use it with --load exchange or mixed"));
  }
  options.ends_by_reset = arguments.end == "rst";
  options.hello.offers_psk = arguments.token == "psk";
  const absl::StatusOr<ClientResult> result = RunClient(options);
  if (!result.ok()) return Refuse(result.status());
  std::puts(Report(options, *result).c_str());
  return HasTooManyFailures(options, *result) ? kTooManyFailures : 0;
}

int Main(int count, char** values) {
  CLI::App app("Load generator and nodes for measuring a TLS pass-through proxy", "hud-load");
  app.require_subcommand(1);
  ServerArguments server_arguments;
  ClientArguments client_arguments;
  const CLI::App* server = DescribeServer(app, server_arguments);
  DescribeClient(app, client_arguments);
  try {
    app.parse(count, values);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kCannot;
  }
  return server->parsed() ? RunServer(server_arguments) : RunClientWith(client_arguments);
}

}  // namespace
}  // namespace hud::load

int main(int count, char** values) { return hud::load::Main(count, values); }
