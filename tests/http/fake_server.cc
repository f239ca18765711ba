// A server over the fake models, for curl, load generators, the page and the protocol clients:
//   fake_server [--http-port 8000] [--metrics-port 8002] ...     all flags of ingot serve; ends on SIGINT or SIGTERM after a drain
#include <signal.h>

#include <cstdio>

#include "frontends/frontend.h"
#include "http/fake_backend.h"
#ifdef INGOT_WITH_GRPC
#include "grpc/grpc_frontend.h"
#endif

namespace ingot {
namespace {

Status run(int argc, char** argv) {
  frontends::ServerOptions options;
  options.http.http_address = "127.0.0.1";
  options.repository.model_control_mode = "explicit";
  options.grpc.allow_grpc = false;
  options.grpc.grpc_address = "127.0.0.1";
  OptionTable table("fake_server [flags]");
  options.add_to(table);
  const std::vector<std::string> args(argv + 1, argv + argc);
  TRY(table.parse(args));
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  TRY(server::Log::get().configure(TRY(frontends::log_options(options))));
  server::Server server(TRY(frontends::core_options(options)));
  TRY(test::add_fake_models(server));
  auto frontend = TRY(frontends::Frontend::start(server, options));
  int grpc_port = 0;
#ifdef INGOT_WITH_GRPC
  std::unique_ptr<grpc::GrpcFrontend> grpc;
  if (options.grpc.allow_grpc) grpc = TRY(grpc::GrpcFrontend::start(server, options.grpc));
  if (grpc) grpc_port = grpc->port();
#endif
  printf("http %d metrics %d grpc %d\n", frontend->http_port(), frontend->metrics_port(), grpc_port);
  fflush(stdout);
  int signal = 0;
  sigwait(&signals, &signal);
  server.begin_exit();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(options.core.exit_timeout_secs);
#ifdef INGOT_WITH_GRPC
  if (grpc) grpc->stop(deadline);
#endif
  frontend->stop(deadline);
  server.stop(std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()));
  return {};
}

}  // namespace
}  // namespace ingot

int main(int argc, char** argv) {
  if (ingot::Status s = ingot::run(argc, argv); !s.ok()) {
    fprintf(stderr, "fake_server: %s\n", s.error().message().c_str());
    return 1;
  }
  return 0;
}
