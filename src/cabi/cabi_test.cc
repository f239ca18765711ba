#include "cabi/cabi.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <set>

#include "triton/core/tritonbackend.h"

namespace ingot::cabi {
namespace {

TEST(Cabi, ExportsEveryDeclaredFunction) {
  std::set<std::string> names;
  std::map<std::string, int> kinds;
  for (const Symbol& s : symbols()) {
    const std::string name = s.name;
    names.insert(name);
    ++kinds[name.substr(0, name.find('_'))];
    EXPECT_EQ(::dlsym(RTLD_DEFAULT, s.name), s.address) << s.name;
  }
  EXPECT_EQ(names.size(), symbols().size());
  EXPECT_EQ(kinds, (std::map<std::string, int>{{"TRITONBACKEND", 91}, {"TRITONSERVER", 172}, {"TRITONCACHE", 6}, {"TRITONREPOAGENT", 12}}));
  EXPECT_TRUE(check_symbols().ok());
}

TEST(Cabi, NumbersOfTheInterface) {
  uint32_t major = 0, minor = 0;
  ASSERT_EQ(TRITONBACKEND_ApiVersion(&major, &minor), nullptr);
  EXPECT_EQ(major, 1u);
  EXPECT_EQ(minor, 19u);
  ASSERT_EQ(TRITONSERVER_ApiVersion(&major, &minor), nullptr);
  EXPECT_EQ(major, 1u);
  EXPECT_EQ(minor, 34u);
  EXPECT_STREQ(TRITONSERVER_DataTypeString(TRITONSERVER_TYPE_BF16), "BF16");
  EXPECT_STREQ(TRITONSERVER_DataTypeString(static_cast<TRITONSERVER_DataType>(99)), "<invalid>");
  EXPECT_EQ(TRITONSERVER_DataTypeByteSize(TRITONSERVER_TYPE_BYTES), 0u);
  EXPECT_EQ(TRITONSERVER_DataTypeByteSize(TRITONSERVER_TYPE_FP64), 8u);
  EXPECT_EQ(TRITONSERVER_StringToDataType("STRING"), TRITONSERVER_TYPE_INVALID);
  EXPECT_EQ(TRITONSERVER_StringToDataType("BYTES"), TRITONSERVER_TYPE_BYTES);
  EXPECT_STREQ(TRITONSERVER_InstanceGroupKindString(TRITONSERVER_INSTANCEGROUPKIND_GPU), "GPU");
  EXPECT_STREQ(TRITONSERVER_MemoryTypeString(TRITONSERVER_MEMORY_CPU_PINNED), "CPU_PINNED");
}

TEST(Cabi, ErrorsCarryCodeAndText) {
  TRITONSERVER_Error* e = TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_NOT_FOUND, "no such thing");
  EXPECT_EQ(TRITONSERVER_ErrorCode(e), TRITONSERVER_ERROR_NOT_FOUND);
  EXPECT_STREQ(TRITONSERVER_ErrorCodeString(e), "Not found");
  EXPECT_STREQ(TRITONSERVER_ErrorMessage(e), "no such thing");
  TRITONSERVER_ErrorDelete(e);
  TRITONSERVER_ErrorDelete(nullptr);
  TRITONSERVER_ServerOptions* options = nullptr;
  e = TRITONSERVER_ServerOptionsNew(&options);
  ASSERT_NE(e, nullptr);
  EXPECT_EQ(TRITONSERVER_ErrorCode(e), TRITONSERVER_ERROR_UNSUPPORTED);
  EXPECT_STREQ(TRITONSERVER_ErrorMessage(e), "TRITONSERVER_ServerOptionsNew is not supported by this server");
  TRITONSERVER_ErrorDelete(e);
}

TEST(Cabi, ParametersAndAttributes) {
  const int64_t seven = 7;
  TRITONSERVER_Parameter* p = TRITONSERVER_ParameterNew("n", TRITONSERVER_PARAMETER_INT, &seven);
  ASSERT_NE(p, nullptr);
  TRITONSERVER_ParameterDelete(p);
  EXPECT_EQ(TRITONSERVER_ParameterNew("n", TRITONSERVER_PARAMETER_BYTES, "x"), nullptr);
  TRITONSERVER_BufferAttributes* a = nullptr;
  ASSERT_EQ(TRITONSERVER_BufferAttributesNew(&a), nullptr);
  void* handle = a;
  EXPECT_EQ(TRITONSERVER_BufferAttributesCudaIpcHandle(a, &handle), nullptr);
  EXPECT_EQ(handle, nullptr);
  char bytes[64] = "handle";
  EXPECT_EQ(TRITONSERVER_BufferAttributesSetCudaIpcHandle(a, bytes), nullptr);
  EXPECT_EQ(TRITONSERVER_BufferAttributesCudaIpcHandle(a, &handle), nullptr);
  EXPECT_STREQ(static_cast<const char*>(handle), "handle");
  EXPECT_EQ(TRITONSERVER_BufferAttributesDelete(a), nullptr);
}

TEST(Cabi, MemoryOfTheCpuOnly) {
  TRITONBACKEND_MemoryManager* memory = nullptr;
  ASSERT_EQ(TRITONBACKEND_BackendMemoryManager(nullptr, &memory), nullptr);
  void* buffer = nullptr;
  ASSERT_EQ(TRITONBACKEND_MemoryManagerAllocate(memory, &buffer, TRITONSERVER_MEMORY_CPU, 0, 16), nullptr);
  ASSERT_NE(buffer, nullptr);
  EXPECT_EQ(TRITONBACKEND_MemoryManagerFree(memory, buffer, TRITONSERVER_MEMORY_CPU, 0), nullptr);
  TRITONSERVER_Error* e = TRITONBACKEND_MemoryManagerAllocate(memory, &buffer, TRITONSERVER_MEMORY_CPU_PINNED, 0, 16);
  ASSERT_NE(e, nullptr);
  EXPECT_EQ(TRITONSERVER_ErrorCode(e), TRITONSERVER_ERROR_UNSUPPORTED);
  TRITONSERVER_ErrorDelete(e);
}

TEST(Cabi, MetricsNeedNamesAndKeepTheirKind) {
  server::MetricsRegistry registry;
  auto finder = custom_backends({.directory = "/nowhere", .metrics = &registry});
  TRITONSERVER_MetricFamily *family = nullptr, *other = nullptr;
  TRITONSERVER_Error* e = TRITONSERVER_MetricFamilyNew(&family, TRITONSERVER_METRIC_KIND_GAUGE, "not a name", "");
  ASSERT_NE(e, nullptr);
  TRITONSERVER_ErrorDelete(e);
  ASSERT_EQ(TRITONSERVER_MetricFamilyNew(&family, TRITONSERVER_METRIC_KIND_GAUGE, "plain", "a gauge"), nullptr);
  e = TRITONSERVER_MetricFamilyNew(&other, TRITONSERVER_METRIC_KIND_COUNTER, "plain", "a counter");
  ASSERT_NE(e, nullptr);
  TRITONSERVER_ErrorDelete(e);
  TRITONSERVER_Metric* m = nullptr;
  ASSERT_EQ(TRITONSERVER_MetricNew(&m, family, nullptr, 0), nullptr);
  ASSERT_EQ(TRITONSERVER_MetricSet(m, 3), nullptr);
  ASSERT_EQ(TRITONSERVER_MetricIncrement(m, -1), nullptr);
  double value = 0;
  ASSERT_EQ(TRITONSERVER_MetricValue(m, &value), nullptr);
  EXPECT_EQ(value, 2);
  e = TRITONSERVER_MetricObserve(m, 1);
  ASSERT_NE(e, nullptr);
  EXPECT_EQ(TRITONSERVER_ErrorCode(e), TRITONSERVER_ERROR_UNSUPPORTED);
  TRITONSERVER_ErrorDelete(e);
  e = TRITONSERVER_MetricFamilyDelete(family);  // its metric lives
  ASSERT_NE(e, nullptr);
  TRITONSERVER_ErrorDelete(e);
  EXPECT_EQ(TRITONSERVER_MetricDelete(m), nullptr);
  EXPECT_EQ(TRITONSERVER_MetricFamilyDelete(family), nullptr);
}

TEST(Cabi, SearchNamesThePlaces) {
  auto finder = custom_backends({.directory = "/nowhere"});
  server::ModelConfig config;
  config.name = "m";
  config.backend = "absent";
  auto beside = finder->find(server::BackendFinder::Place::kBesideModel, config, "/models/m", "/models/m/1");
  ASSERT_TRUE(beside.ok());
  EXPECT_EQ(*beside, nullptr);
  auto installed = finder->find(server::BackendFinder::Place::kInstalled, config, "/models/m", "/models/m/1");
  ASSERT_FALSE(installed.ok());
  EXPECT_EQ(installed.error().message(),
            "unable to find backend library for backend 'absent', try specifying runtime on the model configuration. (looked for libtriton_absent.so in "
            "/models/m/1, /models/m and /nowhere/absent)");
  config.runtime = "../escape.so";
  EXPECT_EQ(finder->find(server::BackendFinder::Place::kBesideModel, config, "/models/m", "/models/m/1").error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace ingot::cabi
