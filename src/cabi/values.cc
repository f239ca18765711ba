// Errors, names of values, log, messages, parameters and buffer attributes.
#include <cstring>

#include "cabi/internal/objects.h"
#include "server/settings.h"

namespace ingot::cabi {

TRITONSERVER_Error* give_error(Code code, std::string message) { return new TRITONSERVER_Error{code, std::move(message)}; }
TRITONSERVER_Error* give_error(const Error& error) { return give_error(error.code(), error.message()); }
TRITONSERVER_Error* give(const Status& status) { return status.ok() ? nullptr : give_error(status.error()); }
TRITONSERVER_Error* unsupported(const char* function) { return give_error(Code::kUnsupported, cat(function, " is not supported by this server")); }

Error read_error(const TRITONSERVER_Error* error) { return Error(error->code, error->message); }

Error take_error(TRITONSERVER_Error* error) {
  Error out = read_error(error);
  delete error;
  return out;
}

server::DataType datatype_of(TRITONSERVER_DataType type) {
  return type > 0 && type < server::kDataTypeCount ? static_cast<server::DataType>(type) : server::DataType::kInvalid;
}
TRITONSERVER_DataType datatype_of(server::DataType type) { return static_cast<TRITONSERVER_DataType>(type); }

const char* memory_name(TRITONSERVER_MemoryType type) { return TRITONSERVER_MemoryTypeString(type); }

TRITONSERVER_ParameterType lend(const server::ParameterValue& value, const void** place) {
  if (const auto* s = std::get_if<std::string>(&value)) return *place = s->c_str(), TRITONSERVER_PARAMETER_STRING;
  if (const auto* b = std::get_if<bool>(&value)) return *place = b, TRITONSERVER_PARAMETER_BOOL;
  if (const auto* d = std::get_if<double>(&value)) return *place = d, TRITONSERVER_PARAMETER_DOUBLE;
  if (const auto* i = std::get_if<int64_t>(&value)) return *place = i, TRITONSERVER_PARAMETER_INT;
  return *place = &std::get<uint64_t>(value), TRITONSERVER_PARAMETER_INT;  // the same 64 bits
}

void read_report(TRITONSERVER_BufferAttributes** usage, uint32_t count, MemoryReport& out) {
  out.bytes.clear();
  for (uint32_t i = 0; i < count; ++i) out.bytes[{memory_name(usage[i]->type), usage[i]->id}] = usage[i]->size;
}

Buffer new_buffer(size_t size) { return {std::shared_ptr<std::byte[]>(new (std::nothrow) std::byte[size == 0 ? 1 : size]), size}; }

}  // namespace ingot::cabi

using namespace ingot;
using namespace ingot::cabi;

extern "C" {

TRITONSERVER_Error* TRITONSERVER_ApiVersion(uint32_t* major, uint32_t* minor) {
  *major = TRITONSERVER_API_VERSION_MAJOR;
  *minor = TRITONSERVER_API_VERSION_MINOR;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ErrorNew(TRITONSERVER_Error_Code code, const char* msg) {
  const bool known = code >= TRITONSERVER_ERROR_UNKNOWN && code <= TRITONSERVER_ERROR_CANCELLED;
  return give_error(known ? static_cast<Code>(code) : Code::kUnknown, msg ? msg : "");
}

void TRITONSERVER_ErrorDelete(TRITONSERVER_Error* error) { delete error; }

TRITONSERVER_Error_Code TRITONSERVER_ErrorCode(TRITONSERVER_Error* error) { return static_cast<TRITONSERVER_Error_Code>(error->code); }

const char* TRITONSERVER_ErrorCodeString(TRITONSERVER_Error* error) { return code_name(error->code); }

const char* TRITONSERVER_ErrorMessage(TRITONSERVER_Error* error) { return error->message.c_str(); }

const char* TRITONSERVER_DataTypeString(TRITONSERVER_DataType datatype) { return server::protocol_name(datatype_of(datatype)); }

uint32_t TRITONSERVER_DataTypeByteSize(TRITONSERVER_DataType datatype) {
  return static_cast<uint32_t>(server::element_bytes(datatype_of(datatype)));
}

TRITONSERVER_DataType TRITONSERVER_StringToDataType(const char* dtype) { return datatype_of(server::parse_datatype(dtype)); }

const char* TRITONSERVER_MemoryTypeString(TRITONSERVER_MemoryType memtype) {
  switch (memtype) {
    case TRITONSERVER_MEMORY_CPU: return "CPU";
    case TRITONSERVER_MEMORY_CPU_PINNED: return "CPU_PINNED";
    case TRITONSERVER_MEMORY_GPU: return "GPU";
  }
  return "<invalid>";
}

const char* TRITONSERVER_ParameterTypeString(TRITONSERVER_ParameterType paramtype) {
  switch (paramtype) {
    case TRITONSERVER_PARAMETER_STRING: return "STRING";
    case TRITONSERVER_PARAMETER_INT: return "INT";
    case TRITONSERVER_PARAMETER_BOOL: return "BOOL";
    case TRITONSERVER_PARAMETER_DOUBLE: return "DOUBLE";
    case TRITONSERVER_PARAMETER_BYTES: return "BYTES";
  }
  return "<invalid>";
}

const char* TRITONSERVER_InstanceGroupKindString(TRITONSERVER_InstanceGroupKind kind) {
  switch (kind) {
    case TRITONSERVER_INSTANCEGROUPKIND_AUTO: return "AUTO";
    case TRITONSERVER_INSTANCEGROUPKIND_CPU: return "CPU";
    case TRITONSERVER_INSTANCEGROUPKIND_GPU: return "GPU";
    case TRITONSERVER_INSTANCEGROUPKIND_MODEL: return "MODEL";
  }
  return "<invalid>";
}

static bool log_level(TRITONSERVER_LogLevel level, server::LogLevel& out) {
  switch (level) {
    case TRITONSERVER_LOG_INFO: return out = server::LogLevel::kInfo, true;
    case TRITONSERVER_LOG_WARN: return out = server::LogLevel::kWarning, true;
    case TRITONSERVER_LOG_ERROR: return out = server::LogLevel::kError, true;
    case TRITONSERVER_LOG_VERBOSE: return out = server::LogLevel::kVerbose, true;
  }
  return false;
}

bool TRITONSERVER_LogIsEnabled(TRITONSERVER_LogLevel level) {
  server::LogLevel l{};
  return log_level(level, l) && server::Log::get().enabled(l);
}

TRITONSERVER_Error* TRITONSERVER_LogMessage(TRITONSERVER_LogLevel level, const char* filename, const int line, const char* msg) {
  server::LogLevel l{};
  if (!log_level(level, l)) return give_error(Code::kInvalidArgument, cat("unknown log level ", static_cast<int>(level)));
  if (server::Log::get().enabled(l)) server::Log::get().write(l, filename ? filename : "", line, msg ? msg : "");
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MessageNewFromSerializedJson(TRITONSERVER_Message** message, const char* base, size_t byte_size) {
  *message = new TRITONSERVER_Message{std::string(base, byte_size)};
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message* message, const char** base, size_t* byte_size) {
  *base = message->text.c_str();
  *byte_size = message->text.size();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MessageDelete(TRITONSERVER_Message* message) {
  delete message;
  return nullptr;
}

TRITONSERVER_Parameter* TRITONSERVER_ParameterNew(const char* name, const TRITONSERVER_ParameterType type, const void* value) {
  auto p = std::make_unique<TRITONSERVER_Parameter>();
  p->name = name;
  p->type = type;
  switch (type) {
    case TRITONSERVER_PARAMETER_STRING: p->value = std::string(static_cast<const char*>(value)); break;
    case TRITONSERVER_PARAMETER_INT: p->value = *static_cast<const int64_t*>(value); break;
    case TRITONSERVER_PARAMETER_BOOL: p->value = *static_cast<const bool*>(value); break;
    case TRITONSERVER_PARAMETER_DOUBLE: p->value = *static_cast<const double*>(value); break;
    default: return nullptr;
  }
  return p.release();
}

TRITONSERVER_Parameter* TRITONSERVER_ParameterBytesNew(const char* name, const void* byte_ptr, const uint64_t size) {
  return new TRITONSERVER_Parameter{name, TRITONSERVER_PARAMETER_BYTES, {}, byte_ptr, size};
}

void TRITONSERVER_ParameterDelete(TRITONSERVER_Parameter* parameter) { delete parameter; }

TRITONSERVER_Error* TRITONSERVER_BufferAttributesNew(TRITONSERVER_BufferAttributes** buffer_attributes) {
  *buffer_attributes = new TRITONSERVER_BufferAttributes;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesDelete(TRITONSERVER_BufferAttributes* buffer_attributes) {
  delete buffer_attributes;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesSetMemoryType(TRITONSERVER_BufferAttributes* a, TRITONSERVER_MemoryType memory_type) {
  a->type = memory_type;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesSetMemoryTypeId(TRITONSERVER_BufferAttributes* a, int64_t memory_type_id) {
  a->id = memory_type_id;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesSetByteSize(TRITONSERVER_BufferAttributes* a, size_t byte_size) {
  a->size = byte_size;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesSetCudaIpcHandle(TRITONSERVER_BufferAttributes* a, void* cuda_ipc_handle) {
  a->has_handle = cuda_ipc_handle != nullptr;
  if (a->has_handle) std::memcpy(a->handle, cuda_ipc_handle, sizeof a->handle);
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesMemoryType(TRITONSERVER_BufferAttributes* a, TRITONSERVER_MemoryType* memory_type) {
  *memory_type = a->type;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesMemoryTypeId(TRITONSERVER_BufferAttributes* a, int64_t* memory_type_id) {
  *memory_type_id = a->id;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesByteSize(TRITONSERVER_BufferAttributes* a, size_t* byte_size) {
  *byte_size = a->size;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesCudaIpcHandle(TRITONSERVER_BufferAttributes* a, void** cuda_ipc_handle) {
  *cuda_ipc_handle = a->has_handle ? a->handle : nullptr;
  return nullptr;
}

}  // extern "C"
