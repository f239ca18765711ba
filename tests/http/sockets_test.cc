// What needs real sockets and time: keep-alive, pipelining, pieces of any size, clients that go, slow readers, limits, drain, TLS.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "frontends/compression.h"
#include "frontends/frontend.h"
#include "http/fake_backend.h"
#include "http/http_client.h"

namespace ingot::test {
namespace {

using namespace std::chrono_literals;

const char kBody[] = R"({"inputs":[{"name":"INPUT0","datatype":"INT32","shape":[1,4],"data":[1,2,3,4]},)"
                     R"({"name":"INPUT1","datatype":"INT32","shape":[1,4],"data":[1,1,1,1]}]})";

std::string post(const std::string& path, const std::string& body, const std::string& headers = "") {
  return cat("POST ", path, " HTTP/1.1\r\nHost: t\r\n", headers, "Content-Length: ", body.size(), "\r\n\r\n", body);
}
const std::string kLive = "GET /v2/health/live HTTP/1.1\r\nHost: t\r\n\r\n";

struct SocketsTest : testing::Test {
  server::Server server{server::CoreOptions{}};
  std::unique_ptr<frontends::Frontend> frontend;
  void SetUp() override {
    ASSERT_TRUE(server::Log::get().configure({.info = false, .warning = false, .error = false}).ok());
    ASSERT_TRUE(add_fake_models(server).ok());
    start({});
  }
  void start(frontends::ServerOptions o) {
    frontend.reset();
    o.http.http_address = "127.0.0.1";
    o.http.http_port = o.metrics.metrics_port = 0;
    o.http.http_thread_count = 2;
    auto f = frontends::Frontend::start(server, o);
    ASSERT_TRUE(f.ok()) << f.error().message();
    frontend = std::move(f).value();
  }
  int port() const { return frontend->http_port(); }
  int64_t running() { return server.registry().in_flight(); }
  bool wait_idle() {
    for (int i = 0; i < 1000 && running() != 0; ++i) std::this_thread::sleep_for(5ms);
    return running() == 0;
  }
  bool wait_running(int64_t n) {
    for (int i = 0; i < 1000 && running() != n; ++i) std::this_thread::sleep_for(5ms);
    return running() == n;
  }
};

TEST_F(SocketsTest, PipelinedRequestsAreAnsweredInOrder) {
  HttpClient c(port());
  std::string all;
  for (int i = 0; i < 50; ++i) all += i % 2 ? kLive : post("/v2/models/llm/generate", cat(R"({"text_input":"n)", i, "\"}"));
  ASSERT_TRUE(c.send(all));
  for (int i = 0; i < 50; ++i) {
    HttpReply r = c.receive();
    ASSERT_EQ(r.status, 200) << i;
    if (i % 2 == 0) {
      EXPECT_NE(r.body.find(cat("\"n", i, "\"")), std::string::npos) << r.body;
    }
  }
}

TEST_F(SocketsTest, ARequestMayArriveInPiecesOfOneByte) {
  HttpClient c(port());
  for (char b : post("/v2/models/add_sub/infer", kBody)) ASSERT_TRUE(c.send({&b, 1}));
  EXPECT_NE(c.receive().body.find("[2,3,4,5]"), std::string::npos);
}

TEST_F(SocketsTest, ChunkedBodies) {
  HttpClient c(port());
  std::string request = "POST /v2/models/add_sub/infer HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::string body = kBody;
  for (size_t at = 0, n = 1; at < body.size(); at += n, n = n % 7 + 1) {
    const std::string piece = body.substr(at, n);
    char size[16];
    snprintf(size, sizeof size, "%zX;x=y\r\n", piece.size());
    request += size + piece + "\r\n";
  }
  request += "0\r\nTrailer: t\r\n\r\n";
  for (int i = 0; i < 2; ++i) {
    HttpReply r = c.exchange(request);
    EXPECT_EQ(r.status, 200) << r.body;
    EXPECT_NE(r.body.find("[2,3,4,5]"), std::string::npos);
  }
}

TEST_F(SocketsTest, ExpectContinue) {
  HttpClient c(port());
  const std::string whole = post("/v2/models/add_sub/infer", kBody, "Expect: 100-continue\r\n");
  ASSERT_TRUE(c.send(whole.substr(0, whole.size() - strlen(kBody))));
  char text[25] = "";
  ASSERT_EQ(recv(c.fd(), text, 25, MSG_WAITALL), 25);
  EXPECT_EQ(std::string(text, 25), "HTTP/1.1 100 Continue\r\n\r\n");
  ASSERT_TRUE(c.send(kBody));
  EXPECT_EQ(c.receive().status, 200);
}

TEST_F(SocketsTest, CompressedBothWays) {
  HttpClient c(port());
  const std::string body = frontends::compress(kBody, frontends::Encoding::kGzip).value();
  HttpReply r = c.exchange(post("/v2/models/add_sub/infer", body, "Content-Encoding: gzip\r\nAccept-Encoding: gzip;q=0.5, deflate\r\n"));
  EXPECT_EQ(r.header("content-encoding"), "deflate");
  const std::string plain = frontends::decompress(r.body, frontends::Encoding::kDeflate, 1 << 20).value();
  EXPECT_NE(plain.find("[2,3,4,5]"), std::string::npos);
  r = c.exchange(post("/v2/models/add_sub/infer", body.substr(0, body.size() / 2), "Content-Encoding: gzip\r\n"));
  EXPECT_EQ(r.status, 400);
  const std::string bomb = frontends::compress(std::string(65 << 20, ' '), frontends::Encoding::kGzip).value();
  r = c.exchange(post("/v2/models/add_sub/infer", bomb, "Content-Encoding: gzip\r\n"));
  EXPECT_EQ(r.status, 400);
  EXPECT_NE(r.body.find("exceeds the maximum allowed value of 67108864 bytes"), std::string::npos) << r.body;
}

TEST_F(SocketsTest, DisconnectIsNoticedWhileNothingIsWritten) {
  HttpClient c(port());
  ASSERT_TRUE(c.send(post("/v2/models/blocked/infer", R"({"inputs":[{"name":"IN","datatype":"INT32","shape":[1],"data":[1]}]})")));
  ASSERT_TRUE(wait_running(1));
  const auto start = std::chrono::steady_clock::now();
  c.close();
  ASSERT_TRUE(wait_idle());
  EXPECT_LT(std::chrono::steady_clock::now() - start, 2s);
}

TEST_F(SocketsTest, DisconnectIsNoticedBehindPipelinedBytes) {
  HttpClient c(port());
  ASSERT_TRUE(c.send(post("/v2/models/blocked/generate", R"({"IN":1})") + kLive + kLive));
  ASSERT_TRUE(wait_running(1));
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(running(), 1);  // the pipelined bytes are no disconnect
  c.close();
  EXPECT_TRUE(wait_idle());
}

TEST_F(SocketsTest, DisconnectWhileStreamingCancels) {
  for (const char* path : {"/v2/models/llm/generate_stream", "/v1/chat/completions"}) {
    HttpClient c(port());
    const std::string body = path[2] == '2' ? R"({"text_input":"a b","stream":true,"delay_ms":20,"repeat":100000})"
                                            : R"({"model":"llm","stream":true,"messages":[{"role":"user","content":"word"}]})";
    if (path[2] == '2') {
      ASSERT_TRUE(c.send(post(path, body)));
      ASSERT_TRUE(wait_running(1));
      c.close();
    } else {
      HttpReply r = c.exchange(post(path, body));
      EXPECT_NE(r.body.find("data: [DONE]\n\n"), std::string::npos);
    }
    EXPECT_TRUE(wait_idle());
  }
}

TEST_F(SocketsTest, ASlowReaderIsCutOffInsteadOfFillingTheMemory) {
  HttpClient c(port());
  ASSERT_TRUE(c.send(""));
  const int small = 64 << 10;  // the kernel must not hold it all for the reader
  setsockopt(c.fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  ASSERT_TRUE(c.send(post("/v2/models/llm/generate_stream",
                          cat(R"({"stream":true,"repeat":400,"text_input":")", std::string(100000, 'x'), " y\"}"))));
  (void)wait_running(1);  // may be over before it is seen; idle before it began would prove nothing
  EXPECT_TRUE(wait_idle());  // 40 MB were produced, none was read
  HttpReply r = c.receive();
  EXPECT_FALSE(r.whole);
}

TEST_F(SocketsTest, TruncatedAtEveryByteLosesOnlyThatConnection) {
  const std::string whole = post("/v2/models/add_sub/infer", kBody);
  for (size_t n = 0; n < whole.size(); n += 3) {
    HttpClient c(port());
    ASSERT_TRUE(c.send(whole.substr(0, n)));
    c.close();
  }
  EXPECT_TRUE(wait_idle());
  EXPECT_EQ(HttpClient(port()).exchange(kLive).status, 200);
}

TEST_F(SocketsTest, ManyIdleConnectionsAndStreams) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const size_t idle_count = std::min<size_t>(1500, files.rlim_cur / 3), stream_count = 100;
  std::vector<std::unique_ptr<HttpClient>> idle, streams;
  for (size_t i = 0; i < idle_count; ++i) {
    idle.push_back(std::make_unique<HttpClient>(port()));
    ASSERT_EQ(idle.back()->exchange(kLive).status, 200) << i;
  }
  for (size_t i = 0; i < stream_count; ++i) {
    streams.push_back(std::make_unique<HttpClient>(port()));
    ASSERT_TRUE(streams.back()->send(post("/v2/models/llm/generate_stream", cat(R"({"stream":true,"delay_ms":2,"text_input":"a b c d )", i, "\"}"))));
  }
  for (size_t i = 0; i < stream_count; ++i) {
    HttpReply r = streams[i]->receive();
    EXPECT_TRUE(r.whole);
    EXPECT_NE(r.body.find(cat("\" ", i, "\"")), std::string::npos) << r.body;
  }
  for (auto& c : idle) ASSERT_EQ(c->exchange(kLive).status, 200);
}

TEST_F(SocketsTest, DrainFinishesWhatRunsAndRefusesTheRest) {
  HttpClient busy(port()), idle(port());
  ASSERT_EQ(idle.exchange(kLive).status, 200);
  ASSERT_TRUE(busy.send(post("/v2/models/llm/generate_stream", R"({"stream":true,"delay_ms":30,"text_input":"a b c d e f"})")));
  ASSERT_TRUE(wait_running(1));
  server.begin_exit();
  std::thread stopper([&] { EXPECT_TRUE(frontend->stop(std::chrono::steady_clock::now() + 10s)); });
  HttpReply r = busy.receive();
  EXPECT_TRUE(r.whole);
  EXPECT_NE(r.body.find("\" f\""), std::string::npos) << r.body;
  stopper.join();
  EXPECT_FALSE(HttpClient(port()).send(kLive));
  EXPECT_TRUE(server.stop(1s));
}

TEST_F(SocketsTest, ApiKeysAndTheirLimits) {
  const std::string path = testing::TempDir() + "ingot_keys.json";
  FILE* f = fopen(path.c_str(), "w");
  fputs(R"({"keys":[{"key":"sk-12345678","name":"a","requests_per_minute":2},{"key":"sk-87654321","tokens_per_minute":1}]})", f);
  fclose(f);
  frontends::ServerOptions o;
  o.http.api_keys_file = path;
  start(o);
  HttpClient c(port());
  const std::string body = R"({"model":"llm","messages":[{"role":"user","content":"a b c"}]})";
  auto status = [&](const std::string& header) { return c.exchange(post("/v1/chat/completions", body, header)).status; };
  EXPECT_EQ(status(""), 401);
  EXPECT_EQ(status("Authorization: Bearer sk-wrong\r\n"), 401);
  EXPECT_EQ(status("Authorization: Bearer sk-12345678\r\n"), 200);
  EXPECT_EQ(status("X-Api-Key: sk-12345678\r\n"), 200);
  EXPECT_EQ(status("X-Api-Key: sk-12345678\r\n"), 429);
  EXPECT_EQ(status("X-Api-Key: sk-87654321\r\n"), 200);
  EXPECT_EQ(status("X-Api-Key: sk-87654321\r\n"), 429);
  remove(path.c_str());
}

TEST_F(SocketsTest, AnExchangeMayOutliveItsServer) {
  HttpClient c(port());
  ASSERT_TRUE(c.send(post("/v2/models/llm/generate_stream", R"({"stream":true,"delay_ms":50,"text_input":"a b c d"})")));
  ASSERT_TRUE(wait_running(1));
  frontend.reset();
  EXPECT_TRUE(wait_idle());
}

}  // namespace
}  // namespace ingot::test
