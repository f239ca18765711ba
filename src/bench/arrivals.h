// gptManagerBenchmark: a prepared dataset through the engine, as a stream of arrivals or in static batches, and its report.
//
//   ArrivalReport r = TRY(measure_arrivals(*service, samples, {.request_rate = 20}));
//   std::fputs(r.text().c_str(), stdout);       // "[BENCHMARK] num_samples 100" ...
//
// Thread rule: the calling thread waits; nobody else may use the engine meanwhile.
#pragma once

#include <string>
#include <vector>

#include "bench/answers.h"
#include "bench/dataset.h"

namespace ingot::bench {

struct ArrivalOptions {
  std::string type = "IFB";
  std::string output_csv, responses_json;
  int max_num_samples = 100000;
  int warm_up = 2;
  int eos_id = -1, pad_id = -1;
  double request_rate = -1;
  int concurrency = 0;
  bool enable_exp_delays = false, streaming = false;
  int random_seed = 420;
  int static_emulated_batch_size = 0;
  int static_emulated_timeout = 500;
  int beam_width = 1;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("type", o.type, "IFB, UIFB or inflight: arrivals join the running batch. V1 or static: batches that end together.");
    v("output-csv", o.output_csv, "Write the report as a table of one row.");
    v("responses-json", o.responses_json, "Write the ids of all answers.");
    v("max-num-samples", o.max_num_samples, "Samples of the dataset at most.", 1, 1e9);
    v("warm-up", o.warm_up, "Requests before the measurement.", 0, 1e6);
    v("eos-id", o.eos_id, "Stop at this token; -1: each answer has its output_len.", -1, 1 << 30);
    v("pad-id", o.pad_id, "Of the old tool; nothing is padded here.", -1, 1 << 30);
    v("request-rate", o.request_rate, "Requests a second; -1: all at once.", -1, 1e9);
    v("concurrency", o.concurrency, "Requests under way at most, in place of a rate; 0: no bound.", 0, 1e6);
    v("enable-exp-delays", o.enable_exp_delays, "Exponential times between arrivals instead of equal ones.");
    v("streaming", o.streaming, "Report times to the first token and between tokens.");
    v("random-seed", o.random_seed, "Seed of the delays.", 0, 1e9);
    v("static-emulated-batch-size", o.static_emulated_batch_size, "Gather so many requests, run them as one batch and wait for all; 0: do not.", 0, 1 << 16);
    v("static-emulated-timeout", o.static_emulated_timeout, "Milliseconds after which an incomplete batch starts.", 0, 1e9);
    v("beam-width", o.beam_width, "Beams.", 1, 1024);
  }
};

struct ArrivalReport {
  struct Row {
    std::string name;
    double value = 0;
    bool count = false;  // an integer
  };
  std::vector<Row> rows;
  std::string text() const;
  std::string csv() const;
};

Result<ArrivalReport> measure_arrivals(backends::LlmService& service, const std::vector<Sample>& samples, const ArrivalOptions& options);

}  // namespace ingot::bench
