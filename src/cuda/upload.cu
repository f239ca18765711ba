#include "cuda/upload.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

namespace ingot::cuda {

Uploader::~Uploader() {
  for (Lane& lane : lanes_) {
    for (void* b : lane.buffers)
      if (b) cudaFreeHost(b);
    for (cudaEvent_t e : lane.sent)
      if (e) cudaEventDestroy(e);
    if (lane.stream) cudaStreamDestroy(lane.stream);
  }
}

Status Uploader::prepare() {
  if (prepared_) return {};
  for (Lane& lane : lanes_) {
    if (!lane.stream) TRY(check(cudaStreamCreateWithFlags(&lane.stream, cudaStreamNonBlocking), "create stream"));
    for (void*& b : lane.buffers)
      if (!b) TRY(check(cudaMallocHost(&b, kPiece), "pinned memory"));
    for (cudaEvent_t& e : lane.sent)
      if (!e) TRY(check(cudaEventCreate(&e), "create event"));
  }
  prepared_ = true;
  return {};
}

Status Uploader::copy(void* to, const void* from, size_t bytes) {
  cudaPointerAttributes source{};
  TRY(check(cudaPointerGetAttributes(&source, from), "ask what kind of memory is copied"));
  if (bytes < kLanes * kPiece || source.type != cudaMemoryTypeUnregistered) return check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "copy");
  TRY(prepare());
  int device = 0;
  TRY(check(cudaGetDevice(&device), "ask for the device"));
  std::atomic<size_t> next{0};
  const size_t pieces = (bytes + kPiece - 1) / kPiece;
  const auto run = [&](Lane& lane) -> Status {
    TRY(check(cudaSetDevice(device), "select the device"));
    int half = 0;
    for (size_t i = next++; i < pieces; i = next++, half ^= 1) {
      const size_t at = i * kPiece, n = std::min(kPiece, bytes - at);
      TRY(check(cudaEventSynchronize(lane.sent[half]), "copy"));
      std::memcpy(lane.buffers[half], static_cast<const char*>(from) + at, n);
      TRY(check(cudaMemcpyAsync(static_cast<char*>(to) + at, lane.buffers[half], n, cudaMemcpyDefault, lane.stream), "copy"));
      TRY(check(cudaEventRecord(lane.sent[half], lane.stream), "copy"));
    }
    return check(cudaStreamSynchronize(lane.stream), "copy");
  };
  std::array<Status, kLanes> results;
  std::array<std::thread, kLanes> threads;
  for (size_t i = 0; i < kLanes; ++i) threads[i] = std::thread([&, i] { results[i] = run(lanes_[i]); });
  for (std::thread& t : threads) t.join();
  for (const Status& s : results) TRY(s);
  return {};
}

}  // namespace ingot::cuda
