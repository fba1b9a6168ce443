// hud-load: load and nodes for measuring a TLS pass-through proxy.
//   hud-load server --listen ADDRESS:PORT
//   hud-load client --connect ADDRESS:PORT --load exchange|upload|download|connect|idle|mixed|stalled
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <map>
#include <string_view>

#include "perf/load/client.h"
#include "perf/load/server.h"
#include "perf/load/socket.h"

namespace hud::load {
namespace {

constexpr int kCannot = 2;
constexpr int kTrouble = 3;
constexpr int kInterrupted = 128 + SIGINT;  // of SIGTERM too

constexpr char kServerStatuses[] =
    "Exit status: 0 ended by SIGTERM or SIGINT; 2 it could not serve, and said why on standard error";
constexpr char kClientStatuses[] =
    "Exit status:\n"
    "  0    measured\n"
    "  2    could not measure; standard error says why, and nothing is on standard output\n"
    "  3    standard error says why the line of JSON is not to be used: more than 1 % failed, connections were down "
    "for\n"
    "       more than 5 % of the time, or the server said nothing for 5 seconds before the window\n"
    "  130  ended by SIGINT or SIGTERM; the line of JSON has what was measured until then";

void Say(std::string_view text) {
  std::fprintf(stderr, "hud-load: %.*s\n", static_cast<int>(text.size()), text.data());
}

int Refuse(const absl::Status& status) {
  Say(std::string(status.message()));
  return kCannot;
}

struct ServerArguments {
  std::string listen;
  int threads = 1;
};

CLI::App* DescribeServer(CLI::App& app, ServerArguments& arguments) {
  CLI::App* server = app.add_subcommand("server", "Answer what the client asks for, until SIGTERM");
  server->footer(kServerStatuses);
  server->option_defaults()->always_capture_default();
  server->add_option("--listen", arguments.listen, "Address and port (0: any that is free), or unix:PATH")->required();
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
                                                 {"idle", Operation::kIdle},         {"mixed", Operation::kDownload},
                                                 {"stalled", Operation::kStall}};

CLI::App* DescribeClient(CLI::App& app, ClientArguments& arguments) {
  ClientOptions& options = arguments.options;
  CLI::App* client = app.add_subcommand("client", "Load a server or the proxy before it, and print a line of JSON");
  client->footer(kClientStatuses);
  client->option_defaults()->always_capture_default();
  client->add_option("--connect", arguments.connect, "Address and port, or unix:PATH")->required();
  client->add_option("--load", options.load, "What happens on each connection")
      ->required()
      ->check(CLI::IsMember(kLoads));
  client
      ->add_option("--connections", options.connections,
                   "How many at a time; a mixed or stalled load has one more, and may have no others")
      ->check(CLI::Range(0, 1'000'000));
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
  client->add_option("--server-name", options.hello.server_name, "In the ClientHello");
  client
      ->add_option("--hello-bytes", options.hello.bytes,
                   "Length of the ClientHello's record; 0: 517, or as many as it takes")
      ->check(CLI::Range(1, 20'000));
  client->add_option("--token", arguments.token, "psk: offer a ticket")->check(CLI::IsMember({"psk", "none"}));
  client->add_option("--pids", options.pids, "Processes whose CPU time is reported")->delimiter(',');
  client->add_option("--threads", options.threads, "That share the connections")->check(CLI::Range(1, 64));
  return client;
}

int RunClientWith(ClientArguments& arguments) {
  ClientOptions& options = arguments.options;
  const absl::StatusOr<SocketAddress> target = SocketAddress::Parse(arguments.connect);
  if (!target.ok()) return Refuse(target.status());
  options.target = *target;
  options.operation = kLoads.at(options.load);
  options.one_exchanges = options.load == "mixed" || options.load == "stalled";
  if (options.connections == 0 && !options.one_exchanges) {
    return Refuse(absl::InvalidArgumentError("--connections 0 is for the exchange of a mixed or stalled load by itself"));
  }
  if (options.rate > 0 && options.operation != Operation::kExchange && !options.one_exchanges) {
    return Refuse(absl::InvalidArgumentError("--rate paces exchanges: use it with --load exchange, mixed or stalled"));
  }
  options.ends_by_reset = arguments.end == "rst";
  options.hello.offers_psk = arguments.token == "psk";
  const absl::StatusOr<ClientResult> result = RunClient(options);
  if (!result.ok()) return Refuse(result.status());
  std::puts(Report(options, *result).c_str());
  if (!result->trouble.empty()) Say(result->trouble);
  if (!result->interrupted.empty()) Say(result->interrupted);
  if (!result->interrupted.empty()) return kInterrupted;
  return result->trouble.empty() ? 0 : kTrouble;
}

int Main(int count, char** values) {
  CLI::App app("Load generator and nodes for measuring a TLS pass-through proxy", "hud-load");
  app.footer("`hud-load server --help` and `hud-load client --help` say more.");
  app.require_subcommand(0, 1);  // not 1: it would say that one is missing, and not which word it does not know
  ServerArguments server_arguments;
  ClientArguments client_arguments;
  const CLI::App* server = DescribeServer(app, server_arguments);
  const CLI::App* client = DescribeClient(app, client_arguments);
  try {
    app.parse(count, values);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    Say(std::string(error.what()) + "; see hud-load --help");
    return kCannot;
  }
  if (!server->parsed() && !client->parsed()) {
    Say("nothing to do: say server or client; see hud-load --help");
    return kCannot;
  }
  return server->parsed() ? RunServer(server_arguments) : RunClientWith(client_arguments);
}

}  // namespace
}  // namespace hud::load

int main(int count, char** values) { return hud::load::Main(count, values); }
