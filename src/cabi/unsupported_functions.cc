// Functions that are declared and not served: embedding the server, caches and repository agents as libraries, traces of one's own.
#include "cabi/internal/objects.h"
#include "triton/core/tritoncache.h"
#include "triton/core/tritonrepoagent.h"

using namespace ingot;
using namespace ingot::cabi;

extern "C" {

TRITONSERVER_Error* TRITONCACHE_ApiVersion(uint32_t* major, uint32_t* minor) {
  *major = TRITONCACHE_API_VERSION_MAJOR;
  *minor = TRITONCACHE_API_VERSION_MINOR;
  return nullptr;
}

TRITONSERVER_Error* TRITONREPOAGENT_ApiVersion(uint32_t* major, uint32_t* minor) {
  *major = TRITONREPOAGENT_API_VERSION_MAJOR;
  *minor = TRITONREPOAGENT_API_VERSION_MINOR;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceNew(
    TRITONSERVER_InferenceTrace**, TRITONSERVER_InferenceTraceLevel, uint64_t, TRITONSERVER_InferenceTraceActivityFn_t, TRITONSERVER_InferenceTraceReleaseFn_t, void*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_InferenceTraceTensorNew(
    TRITONSERVER_InferenceTrace**, TRITONSERVER_InferenceTraceLevel, uint64_t, TRITONSERVER_InferenceTraceActivityFn_t, TRITONSERVER_InferenceTraceTensorActivityFn_t, TRITONSERVER_InferenceTraceReleaseFn_t, void*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_InferenceTraceSetContext(
    TRITONSERVER_InferenceTrace*, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerNew(TRITONSERVER_Server**, TRITONSERVER_ServerOptions*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerDelete(TRITONSERVER_Server*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerStop(TRITONSERVER_Server*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerSetExitTimeout(TRITONSERVER_Server*, unsigned int) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerRegisterModelRepository(
    TRITONSERVER_Server*, const char*, const TRITONSERVER_Parameter**, uint32_t) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerUnregisterModelRepository(
    TRITONSERVER_Server*, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerPollModelRepository(TRITONSERVER_Server*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONCACHE_CacheEntryBufferCount(TRITONCACHE_CacheEntry*, size_t*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONCACHE_CacheEntryAddBuffer(
    TRITONCACHE_CacheEntry*, void*, TRITONSERVER_BufferAttributes*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONCACHE_CacheEntryGetBuffer(
    TRITONCACHE_CacheEntry*, size_t, void**, TRITONSERVER_BufferAttributes*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONCACHE_CacheEntrySetBuffer(
    TRITONCACHE_CacheEntry*, size_t, void*, TRITONSERVER_BufferAttributes*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONCACHE_Copy(TRITONCACHE_Allocator*, TRITONCACHE_CacheEntry*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONREPOAGENT_ModelRepositoryLocation(
    TRITONREPOAGENT_Agent*, TRITONREPOAGENT_AgentModel*, TRITONREPOAGENT_ArtifactType*, const char**) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONREPOAGENT_ModelRepositoryLocationAcquire(
    TRITONREPOAGENT_Agent*, TRITONREPOAGENT_AgentModel*, TRITONREPOAGENT_ArtifactType, const char**) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONREPOAGENT_ModelRepositoryLocationRelease(
    TRITONREPOAGENT_Agent*, TRITONREPOAGENT_AgentModel*, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONREPOAGENT_ModelRepositoryUpdate(
    TRITONREPOAGENT_Agent*, TRITONREPOAGENT_AgentModel*, TRITONREPOAGENT_ArtifactType, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONREPOAGENT_ModelParameterCount(
    TRITONREPOAGENT_Agent*, TRITONREPOAGENT_AgentModel*, uint32_t*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONREPOAGENT_ModelParameter(
    TRITONREPOAGENT_Agent*, TRITONREPOAGENT_AgentModel*, uint32_t, const char**, const char**) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONREPOAGENT_ModelConfig(
    TRITONREPOAGENT_Agent*, TRITONREPOAGENT_AgentModel*, uint32_t, TRITONSERVER_Message**) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONREPOAGENT_ModelState(TRITONREPOAGENT_AgentModel*, void**) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONREPOAGENT_ModelSetState(TRITONREPOAGENT_AgentModel*, void*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONREPOAGENT_State(TRITONREPOAGENT_Agent*, void**) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONREPOAGENT_SetState(TRITONREPOAGENT_Agent*, void*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsNew(TRITONSERVER_ServerOptions**) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsDelete(TRITONSERVER_ServerOptions*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetServerId(
    TRITONSERVER_ServerOptions*, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelRepositoryPath(
    TRITONSERVER_ServerOptions*, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelControlMode(
    TRITONSERVER_ServerOptions*, TRITONSERVER_ModelControlMode) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetStartupModel(
    TRITONSERVER_ServerOptions*, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetStrictModelConfig(
    TRITONSERVER_ServerOptions*, bool) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelConfigName(
    TRITONSERVER_ServerOptions*, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetRateLimiterMode(
    TRITONSERVER_ServerOptions*, TRITONSERVER_RateLimitMode) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsAddRateLimiterResource(
    TRITONSERVER_ServerOptions*, const char*, size_t, int) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetPinnedMemoryPoolByteSize(
    TRITONSERVER_ServerOptions*, uint64_t) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetCudaMemoryPoolByteSize(
    TRITONSERVER_ServerOptions*, int, uint64_t) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetCudaVirtualAddressSize(
    TRITONSERVER_ServerOptions*, int, size_t) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetResponseCacheByteSize(
    TRITONSERVER_ServerOptions*, uint64_t) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetCacheConfig(
    TRITONSERVER_ServerOptions*, const char*, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetCacheDirectory(
    TRITONSERVER_ServerOptions*, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetMinSupportedComputeCapability(
    TRITONSERVER_ServerOptions*, double) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetExitOnError(TRITONSERVER_ServerOptions*, bool) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetStrictReadiness(
    TRITONSERVER_ServerOptions*, bool) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetExitTimeout(
    TRITONSERVER_ServerOptions*, unsigned int) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetBufferManagerThreadCount(
    TRITONSERVER_ServerOptions*, unsigned int) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelLoadThreadCount(
    TRITONSERVER_ServerOptions*, unsigned int) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelLoadRetryCount(
    TRITONSERVER_ServerOptions*, unsigned int) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelNamespacing(
    TRITONSERVER_ServerOptions*, bool) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetEnablePeerAccess(
    TRITONSERVER_ServerOptions*, bool) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetLogFile(TRITONSERVER_ServerOptions*, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetLogInfo(TRITONSERVER_ServerOptions*, bool) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetLogWarn(TRITONSERVER_ServerOptions*, bool) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetLogError(TRITONSERVER_ServerOptions*, bool) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetLogFormat(
    TRITONSERVER_ServerOptions*, TRITONSERVER_LogFormat) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetLogVerbose(TRITONSERVER_ServerOptions*, int) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetMetrics(TRITONSERVER_ServerOptions*, bool) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetGpuMetrics(TRITONSERVER_ServerOptions*, bool) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetCpuMetrics(TRITONSERVER_ServerOptions*, bool) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetMetricsInterval(
    TRITONSERVER_ServerOptions*, uint64_t) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetBackendDirectory(
    TRITONSERVER_ServerOptions*, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetRepoAgentDirectory(
    TRITONSERVER_ServerOptions*, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelLoadDeviceLimit(
    TRITONSERVER_ServerOptions*, TRITONSERVER_InstanceGroupKind, int, double) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetBackendConfig(
    TRITONSERVER_ServerOptions*, const char*, const char*, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetHostPolicy(
    TRITONSERVER_ServerOptions*, const char*, const char*, const char*) { return unsupported(__func__); }
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetMetricsConfig(
    TRITONSERVER_ServerOptions*, const char*, const char*, const char*) { return unsupported(__func__); }

}  // extern "C"
