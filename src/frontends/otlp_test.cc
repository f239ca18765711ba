#include "frontends/otlp.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <netdb.h>

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "server/settings.h"

namespace {

// A name server that does not answer, until the test lets it.
std::mutex mutex;
std::condition_variable changed;
bool answers = false;
int asked = 0;

}  // namespace

// Stands before the C library's own in this program.
extern "C" int getaddrinfo(const char* node, const char* service, const addrinfo* hints, addrinfo** found) {
  if (node != nullptr && std::strcmp(node, "collector.invalid") == 0) {
    std::unique_lock lock(mutex);
    ++asked;
    changed.wait(lock, [] { return answers; });
    return EAI_AGAIN;
  }
  using Function = int (*)(const char*, const char*, const addrinfo*, addrinfo**);
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "getaddrinfo"))(node, service, hints, found);
}

namespace ingot::frontends {
namespace {

using Clock = std::chrono::steady_clock;

TEST(OtlpExporter, EndsInTimeWhileANameServerIsSilent) {
  server::Log::get().configure({.info = false, .warning = false, .error = false}).value();
  auto exporter = OtlpExporter::start({.url = "collector.invalid:4318/v1/traces", .delay_ms = 0}).value();
  server::Span span;
  span.name = "m";
  exporter->take({span});
  for (;;) {  // until it is asked
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::lock_guard lock(mutex);
    if (asked != 0) break;
  }
  const auto start = Clock::now();
  exporter.reset();
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(4)) << "two seconds at a server's end";
  std::lock_guard lock(mutex);
  EXPECT_EQ(asked, 1);
  answers = true;
  changed.notify_all();
}

TEST(OtlpExporter, RefusesWhatIsNoHttpUrl) {
  EXPECT_EQ(OtlpExporter::start({.url = "https://collector:4318/v1/traces"}).error().message(),
            "--trace-config opentelemetry,url: found 'https://collector:4318/v1/traces', want http://HOST:PORT/PATH (a local collector forwards to https)");
}

}  // namespace
}  // namespace ingot::frontends
