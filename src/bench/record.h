// Record: one measured figure as a JSON line under bench/records/, and the limits of the machine it is judged by.
//
//   RecordWriter records = TRY(RecordWriter::open("bench/records/offline.jsonl"));
//   TRY(records.add({.system = "ingot", .name = "tinyllama-1.1b/int4/decode/1", .value = 52.1, .unit = "tok/s", .n = 5}));
//
// Thread rule: one thread.
#pragma once

#include <string>

#include "base/result.h"

namespace ingot::bench {

struct Record {
  std::string system;   // "ingot", "llama.cpp", ...
  std::string name;     // shape/format/phase/batch
  double value = 0;     // median
  std::string unit;
  int n = 1;            // samples
  double spread = 0;    // (max - min) / median
  double ceiling = 0;   // the limit in the same unit, 0: none
};

class RecordWriter {
 public:
  // Appends to `path`; "" drops everything. The run gets an id from the clock; commit and device are the caller's.
  static Result<RecordWriter> open(const std::string& path, std::string commit, std::string device);
  Status add(const Record& record);

 private:
  std::string path_, run_, commit_, device_;
};

// What this machine can do at most, measured now with as many threads as the engine uses.
struct MachineLimits {
  double read_bytes_per_second = 0;  // streaming reads of a buffer far larger than the caches
};
MachineLimits measure_limits(int threads);

}  // namespace ingot::bench
