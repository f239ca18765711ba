/* The device ABI: how a device (the CPU, linked in; CUDA, a plugin) offers kernels and runs step lists.
 *
 *   const ingot_device_api* api = ingot_device_entry(INGOT_DEVICE_ABI);   // the one exported symbol of a plugin
 *   ingot_device* dev; api->open(0, "{}", &dev);
 *   api->prepare(dev, &program, &exec); api->run(exec, &bindings, &ticket); api->wait(exec, ticket, &results);
 *
 * C only: no exceptions, no STL. Every function that returns int gives 0 or an ingot_status; the text of the last failure of the
 * calling thread comes from last_error(). Structs are plain; each top-level one starts with its size, and the ABI number is checked
 * at load. Letters: T rows (tokens) of a step, S slices (sequences) of a step, R rows whose logits are wanted, E hidden, H query
 * heads, Hkv kv heads, D head dim, V vocabulary, P tokens per page.
 *
 * Thread rule: `kernels`, `packed_bytes`, `pack`, `unpack` may be called from any thread at once; one executable is driven by one
 * thread at a time.
 */
#ifndef INGOT_DEVICE_ABI_H_
#define INGOT_DEVICE_ABI_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define INGOT_DEVICE_ABI 1

enum ingot_status {
  INGOT_OK = 0,
  INGOT_ERROR = 1,          /* internal */
  INGOT_OUT_OF_MEMORY = 2,  /* the message names wanted and free bytes */
  INGOT_UNSUPPORTED = 3,    /* no kernel accepts this op, or the option does not exist here */
  INGOT_INVALID = 4,        /* the caller's arguments contradict each other */
};

/* Attributes of an op, flat: each op uses the fields that src/op/op.h lists for it, the others are zero. */
typedef struct ingot_attrs {
  int32_t layer;         /* attention: KV layer index; shift, segment_begin: index of the per-sequence state */
  int32_t heads;         /* H */
  int32_t kv_heads;      /* Hkv */
  int32_t head_dim;      /* D of q and k */
  int32_t v_head_dim;    /* D of v; 0: as head_dim */
  int32_t rotary_dim;    /* columns of each head that rotate */
  int32_t rotary_begin;  /* first rotating column of each head */
  int32_t rope_kind;     /* ingot_rope_kind */
  int32_t interleaved;   /* rotate pairs (2i, 2i+1) instead of halves (i, i + rotary_dim/2) */
  int32_t original_positions; /* positions of training: dynamic NTK, longrope, logn */
  int32_t window;        /* attention: a row at position p sees keys > p - window; 0: all */
  int32_t activation;    /* ingot_activation */
  int32_t group;         /* rms_norm, slice, concat: columns of one group; 0: the whole row */
  int32_t begin;         /* slice: first column in each group */
  int32_t width;         /* slice: columns taken from each group; concat: columns of b in each group */
  int32_t experts;
  int32_t top_k;
  int32_t normalize;     /* moe_route: the chosen weights are divided by their sum */
  int32_t scoring;       /* moe_route: 0 softmax over all, 1 sigmoid, 2 softmax over the chosen */
  int32_t expert_groups; /* moe_route: group-limited choice (DeepSeek); 0: none */
  int32_t top_groups;
  int32_t offset;        /* embedding: added to the index (learned positions of OPT: 2) */
  int32_t token;         /* segment_begin: the id that ends a segment */
  int32_t reserved_i[9];
  double eps;
  double scale;          /* attention: score factor; embedding, scale: multiplier; rope: factor on cos and sin; moe_route: factor */
  double softcap;        /* attention, softcap: c * tanh(x / c); 0: none */
  double rope_base;
  double rope_factor;
  double reserved_f[5];
} ingot_attrs;

enum ingot_rope_kind {
  INGOT_ROPE_TABLE = 0,       /* weights[0] = inv_freq [1, rotary_dim / 2] */
  INGOT_ROPE_DYNAMIC = 1,     /* L = max(prompt_length, position + 1) > original: base * ((f L / orig) - (f - 1)) ^ (d / (d - 2)) */
  INGOT_ROPE_QWEN_NTK = 2,    /* L = prompt_length: alpha = max(1, 2 ^ ceil(log2(L / orig) + 1) - 1), base * alpha ^ (d / (d - 2)) */
  INGOT_ROPE_LONG = 3,        /* weights[0] = inv_freq [2, rotary_dim / 2]: row 1 where L > original, L as for DYNAMIC */
};

enum ingot_activation {
  INGOT_ACT_SILU = 0,
  INGOT_ACT_GELU = 1,       /* erf */
  INGOT_ACT_GELU_TANH = 2,
  INGOT_ACT_RELU = 3,
  INGOT_ACT_RELU2 = 4,
  INGOT_ACT_SIGMOID = 5,
  INGOT_ACT_QUICK_GELU = 6,
  INGOT_ACT_TANH = 7,
};

/* A weight as stored. Matrices are [n, k] row-major (k is the input width); vectors have k = 1... n elements as [1, k].
 * The raw (portable) bytes of a weight are its sections one after the other, each padded to 64 bytes:
 *   values  [experts] x [n, k] in dtype (i8 | u4: two a byte, low nibble first | f8_e4m3 | f32 | bf16 | f16)
 *   scales  [experts] x [n, k / group] f32      (quantised dtypes only; group = k: per channel)
 *   zeros   [experts] x [n, k / group] f32      (has_zero only)
 * real value = (value - zero) * scale; u4 without zeros has the fixed zero 8. */
typedef struct ingot_weight_desc {
  int32_t dtype;     /* ingot::DType */
  int32_t group;     /* quantised: inputs that share a scale; otherwise 0 */
  int32_t has_zero;
  int32_t experts;   /* 0: a plain matrix; else a stack */
  int64_t n, k;
} ingot_weight_desc;

/* One operand: columns [offset, offset + width) of the rows of a buffer whose rows are `stride` elements apart. */
typedef struct ingot_operand {
  int32_t buffer;    /* index into ingot_program.buffers; -1: absent */
  int32_t offset;
  int32_t width;
  int32_t stride;
} ingot_operand;

#define INGOT_MAX_INPUTS 6
#define INGOT_MAX_OUTPUTS 3
#define INGOT_MAX_WEIGHTS 6

/* What a kernel row decides on: everything of a step but the pointers. */
typedef struct ingot_op_desc {
  int32_t op;        /* ingot::Op */
  int32_t inputs, outputs, weights;
  ingot_attrs attrs;
  int32_t in_dtype[INGOT_MAX_INPUTS];
  int32_t in_width[INGOT_MAX_INPUTS];
  int32_t out_dtype[INGOT_MAX_OUTPUTS];
  int32_t out_width[INGOT_MAX_OUTPUTS];
  ingot_weight_desc weight[INGOT_MAX_WEIGHTS];
} ingot_op_desc;

typedef struct ingot_step {
  ingot_op_desc desc;
  ingot_operand in[INGOT_MAX_INPUTS];
  ingot_operand out[INGOT_MAX_OUTPUTS];
  const char* tactic;                        /* name of the kernel row; NULL: the device's first that accepts */
  const void* weight[INGOT_MAX_WEIGHTS];     /* device pointers, packed as `tactic` wants (vectors: raw) */
} ingot_step;

/* Rows of a buffer: T (INGOT_ROWS_TOKENS) or R (INGOT_ROWS_LOGITS). */
enum ingot_rows { INGOT_ROWS_TOKENS = 0, INGOT_ROWS_LOGITS = 1 };

typedef struct ingot_buffer {
  int32_t dtype;
  int32_t width;
  int32_t rows;      /* ingot_rows */
  int32_t arena;     /* buffers of one arena number share memory: their lifetimes do not overlap */
} ingot_buffer;

/* Buffers with fixed meaning; a program's own buffers follow. All i32 of width 1 but LOGITS (f32, width V). */
enum ingot_fixed_buffer {
  INGOT_BUF_TOKENS = 0,
  INGOT_BUF_POSITIONS = 1,
  INGOT_BUF_PROMPT_LENGTH = 2,
  INGOT_BUF_LOGITS = 3,
  INGOT_BUF_FIRST_FREE = 4,
};

typedef struct ingot_kv_layer {
  int32_t kv_heads, head_dim, v_head_dim, window;
} ingot_kv_layer;

typedef struct ingot_program {
  size_t struct_bytes;
  const ingot_step* steps;
  int32_t n_steps;
  const ingot_buffer* buffers;
  int32_t n_buffers;
  int32_t vocab_size;              /* V of LOGITS; 0: no logits (embedding models) */
  const ingot_kv_layer* kv_layers;
  int32_t n_kv_layers;
  int32_t kv_dtype;                /* f32, bf16, f16, i8 or f8_e4m3 */
  int32_t page_tokens;             /* P */
  int64_t pages;
  const int32_t* state_widths;     /* per-sequence state: f32 (shift) or i32 (segment_begin) elements of each index */
  int32_t n_states;
  int32_t state_slots;
  int32_t max_tokens;              /* T never exceeds this */
  int32_t max_slices;              /* S and R never exceed these */
  int32_t max_logits;
  int32_t max_pages_per_sequence;  /* row length of page tables */
} ingot_program;

/* How one logits row becomes a token id. Order: bias, repetition / presence / frequency penalty, bans and grammar mask,
 * temperature, top-k, top-p, min-p; temperature 0 or top_k 1 is greedy (lowest id wins ties). */
typedef struct ingot_sampling {
  float temperature, top_p, min_p;
  float repetition_penalty, presence_penalty, frequency_penalty;
  int32_t top_k;                 /* 0: all */
  int32_t logprobs;              /* how many best alternatives are wanted beside the chosen one; -1: none at all */
  uint64_t seed;                 /* random number = philox(seed, position): independent of batch and schedule */
  int64_t position;              /* index of the token being sampled in its sequence */
  const int32_t* history;        /* ids of prompt and answer so far, for the penalties */
  int32_t n_history;
  int32_t n_prompt;              /* of n_history: presence and frequency count only what follows */
  const int32_t* bias_ids;       /* additive bias */
  const float* bias_values;
  int32_t n_bias;
  const int32_t* banned;         /* ids that must not be chosen now (bad words, minimum length) */
  int32_t n_banned;
  const uint32_t* mask;          /* [V / 32 rounded up] allowed ids of the grammar; NULL: all */
  int32_t feedback_from_previous;  /* history lacks the id still being computed by the previous step: row of it, or -1 */
} ingot_sampling;

typedef struct ingot_bindings {
  size_t struct_bytes;
  int32_t tokens_count;                 /* T */
  int32_t slices;                       /* S */
  int32_t logits;                       /* R */
  const int32_t* tokens;                /* [T]; -1 - r: the id that row r of the previous step sampled */
  const int32_t* positions;             /* [T] */
  const int32_t* prompt_length;         /* [T] fixes the RoPE regime */
  const int32_t* slice_begin;           /* [S + 1] prefix sums into T; rows of one sequence are adjacent, in position order */
  const int32_t* kv_length;             /* [S] tokens of the sequence including this step's */
  const int32_t* page_table;            /* [S, max_pages_per_sequence] page ids; entries past ceil(kv_length / P) are not read */
  const int32_t* state_slot;            /* [S]; ignored when the program has no state */
  const int32_t* logits_row;            /* [R] row in T whose logits are wanted */
  const ingot_sampling* sampling;       /* [R]; NULL: no sampling */
  const float* embedding_rows;          /* [n, E] f32 that replace tokens with id >= vocab_size + i; may be NULL */
  int32_t n_embedding_rows;
  /* Done before the step: KV pages and state slots to copy, state slots to clear. */
  const int32_t* copy_pages;            /* pairs (from, to) */
  int32_t n_copy_pages;
  const int32_t* copy_states;           /* pairs (from, to) */
  int32_t n_copy_states;
  const int32_t* clear_states;
  int32_t n_clear_states;
  int32_t want_logits;                  /* fill results.logits */
  int32_t dump_buffer;                  /* a buffer to copy out as f32 (golden tests), or -1 */
} ingot_bindings;

/* Valid until the next wait() on the executable. */
typedef struct ingot_results {
  size_t struct_bytes;
  const int32_t* ids;                   /* [R] sampled */
  const float* logprobs;                /* [R] of the chosen id, natural log over the unfiltered distribution (after penalties, bias, mask) */
  const int32_t* top_ids;               /* [R, max_top] */
  const float* top_logprobs;            /* [R, max_top] */
  int32_t max_top;
  const float* logits;                  /* [R, V] raw model logits when wanted */
  const float* dump;                    /* [rows, width] of dump_buffer */
  double seconds;                       /* device time of the step */
} ingot_results;

#define INGOT_MAX_TOP_LOGPROBS 20

typedef struct ingot_device_properties {
  size_t struct_bytes;
  char name[128];            /* "Intel Xeon ... (avx512, vnni, amx)", "NVIDIA H200" */
  char id[64];               /* key of the timing cache: same id, same kernels and speeds */
  int64_t memory_bytes, free_bytes;
  int32_t units;             /* threads or SMs */
  int32_t preferred_activation_dtype;  /* f32 on the CPU, bf16 on CUDA */
  int32_t preferred_kv_dtype;
  int32_t unified_memory;    /* 1: host pointers are device pointers; weights are bound from the mapped file without a copy */
} ingot_device_properties;

typedef struct ingot_device ingot_device;
typedef struct ingot_executable ingot_executable;

typedef struct ingot_device_api {
  uint32_t abi;
  uint32_t struct_bytes;
  const char* kind;                                                     /* "cpu", "cuda", "fake" */
  int (*count)(void);
  int (*properties)(int index, ingot_device_properties* out);
  int (*open)(int index, const char* options_json, ingot_device** out); /* {"threads": 2, "isa": "avx2"} */
  void (*close)(ingot_device* device);
  int (*alloc)(ingot_device* device, size_t bytes, void** out);         /* 256-byte aligned */
  void (*free)(ingot_device* device, void* memory);
  int (*copy)(ingot_device* device, void* to, const void* from, size_t bytes); /* host or device on either side; done on return */
  /* Names of the kernel rows that accept the op, best first; returns their number (at most `max` are written). Static strings. */
  int (*kernels)(ingot_device* device, const ingot_op_desc* desc, const char** names, int max);
  /* Size of weight `index` of the op in the packing of a kernel row; equal to the raw size when the row takes raw bytes. */
  int (*packed_bytes)(ingot_device* device, const char* tactic, const ingot_op_desc* desc, int index, size_t* out);
  /* Host memory on both sides: `raw` as described at ingot_weight_desc, `packed` of packed_bytes(). */
  int (*pack)(ingot_device* device, const char* tactic, const ingot_op_desc* desc, int index, const void* raw, void* packed);
  int (*unpack)(ingot_device* device, const char* tactic, const ingot_op_desc* desc, int index, const void* packed, void* raw);
  int (*prepare)(ingot_device* device, const ingot_program* program, ingot_executable** out);
  void (*release)(ingot_executable* executable);
  /* Asynchronous: arrays in `bindings` must stay unchanged until wait(ticket) returns. At most two tickets in flight. */
  int (*run)(ingot_executable* executable, const ingot_bindings* bindings, uint64_t* ticket);
  int (*wait)(ingot_executable* executable, uint64_t ticket, ingot_results* out);
  /* Seconds that one launch of the op takes at `rows` rows (tactic timing); memory is the device's own. */
  int (*time_kernel)(ingot_device* device, const char* tactic, const ingot_op_desc* desc, int rows, double* seconds);
  const char* (*last_error)(void);
} ingot_device_api;

/* Exported by a plugin; NULL when it does not speak this ABI number. */
const ingot_device_api* ingot_device_entry(uint32_t abi);

#ifdef __cplusplus
}
#endif
#endif /* INGOT_DEVICE_ABI_H_ */
