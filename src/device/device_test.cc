#include "device/device.h"

#include <gtest/gtest.h>

#include "base/files.h"
#include "device/fake.h"
#include "op/op.h"
#include "tensor/dtype.h"

namespace ingot::device {
namespace {

ingot_op_desc linear_desc() {
  ingot_op_desc d{};
  d.op = static_cast<int>(op::Op::kLinear);
  d.inputs = d.outputs = d.weights = 1;
  d.in_width[0] = 64;
  d.out_width[0] = 8;
  d.weight[0] = {static_cast<int>(DType::kU4), 32, 1, 0, 8, 64};
  return d;
}

TEST(OpenDevice, FindsLinkedDeviceAndClosesIt) {
  FakeDevice fake;
  const ingot_device_api* linked[] = {fake.api()};
  {
    auto device = open_device("fake", {.linked = linked});
    ASSERT_TRUE(device.ok()) << device.error().message();
    EXPECT_STREQ((*device)->kind(), "fake");
    EXPECT_EQ((*device)->kernels(linear_desc()).size(), 3u);
    DeviceMemory memory = (*device)->alloc(100).value();
    EXPECT_EQ(memory.bytes(), 100u);
    device = Error(Code::kUnknown, "");
    EXPECT_EQ(fake.count("close"), 0);  // the memory still holds it
  }
  EXPECT_EQ(fake.count("free"), 1);
  EXPECT_EQ(fake.count("close"), 1);
}

TEST(OpenDevice, SaysWhatIsWrongWithTheName) {
  FakeDevice fake;
  const ingot_device_api* linked[] = {fake.api()};
  auto message = [&](const char* spec) { return open_device(spec, {.linked = linked}).error().message(); };
  EXPECT_EQ(message("fake:3"), "device 'fake:3' does not exist: there are 1 fake devices, numbered from 0");
  EXPECT_EQ(message("fake:x"), "device 'fake:x' has 'x' after the colon, want a device number from 0");
  EXPECT_EQ(message(":1"), "device ':1' names no device, want cpu, cuda, cuda:1 or the path of a plugin");
  EXPECT_NE(message("cudo").find("looked for ["), std::string::npos);
  EXPECT_NE(message("cudo").find("libingot_cudo.so"), std::string::npos);
  fake.fail_next("count", INGOT_ERROR, "driver 535 is too old, want 580");
  EXPECT_EQ(message("fake"), "device 'fake': no fake device is present: driver 535 is too old, want 580");
  fake.fail_next("open", INGOT_OUT_OF_MEMORY, "wanted 1 GB, 3 MB free");
  auto r = open_device("fake", {.linked = linked});
  EXPECT_EQ(r.error().message(), "device fake, opening it: wanted 1 GB, 3 MB free");
  EXPECT_EQ(r.error().code(), Code::kUnavailable);
}

TEST(OpenDevice, RefusesWhatIsNoPlugin) {
  const std::string path = testing::TempDir() + "/libingot_broken.so";
  ASSERT_TRUE(write_file(path, "not an ELF file").ok());
  const std::string message = open_device(path, {}).error().message();
  EXPECT_NE(message.find("cannot be loaded"), std::string::npos) << message;
  auto libc = open_device("/lib/x86_64-linux-gnu/libz.so.1", {});
  if (file_exists("/lib/x86_64-linux-gnu/libz.so.1")) {
    EXPECT_EQ(libc.error().message(), "device plugin /lib/x86_64-linux-gnu/libz.so.1 exports no ingot_device_entry: it is no device plugin");
  }
}

TEST(OpenDevice, RefusesAnotherAbi) {
  FakeDevice fake;
  ingot_device_api other = *fake.api();
  other.abi = 99;
  const ingot_device_api* linked[] = {&other};
  EXPECT_NE(open_device("fake", {.linked = linked}).error().message().find("has ABI 99"), std::string::npos);
}

TEST(ListDevices, GivesReasonForTheMissing) {
  FakeDevice fake;
  const ingot_device_api* linked[] = {fake.api()};
  const char* kinds[] = {"nosuch"};
  auto rows = list_devices({.linked = linked}, kinds);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].name, "Fake device");
  EXPECT_NE(rows[1].problem.find("plugin was not found"), std::string::npos);
}

TEST(Describe, IsReadable) {
  ingot_op_desc d = linear_desc();
  EXPECT_EQ(describe(d), "linear(f32[64]) -> f32[8]; u4[8, 64] group 32 zeros");
  d.op = static_cast<int>(op::Op::kAttention);
  d.weights = 0;
  d.attrs.heads = 4;
  d.attrs.layer = 3;
  EXPECT_EQ(describe(d), "attention(f32[64]) -> f32[8] heads=4");
}

}  // namespace
}  // namespace ingot::device
