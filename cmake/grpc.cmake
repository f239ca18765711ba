# The gRPC frontend: messages and stubs are generated from src/grpc/proto when the project is built. Builds of the core alone have no
# gRPC: the module is empty there.
if(INGOT_CORE_ONLY)
  ingot_module(grpc DEPS frontends server base EXCLUDE "/grpc/")
  return()
endif()

find_package(Protobuf REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(GRPCPP REQUIRED IMPORTED_TARGET grpc++)
find_library(GRPCPP_REFLECTION grpc++_reflection REQUIRED)
find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)

set(proto_dir ${CMAKE_CURRENT_SOURCE_DIR}/grpc/proto)
set(proto_out ${CMAKE_CURRENT_BINARY_DIR}/grpc_generated)
file(MAKE_DIRECTORY ${proto_out})
set(proto_sources "")
foreach(name model_config grpc_service health)
  set(generated ${proto_out}/${name}.pb.cc ${proto_out}/${name}.grpc.pb.cc)
  add_custom_command(
    OUTPUT ${generated} ${proto_out}/${name}.pb.h ${proto_out}/${name}.grpc.pb.h
    COMMAND protobuf::protoc -I${proto_dir} --cpp_out=${proto_out} --grpc_out=${proto_out} --plugin=protoc-gen-grpc=${GRPC_CPP_PLUGIN}
            ${proto_dir}/${name}.proto
    DEPENDS ${proto_dir}/${name}.proto ${proto_dir}/model_config.proto VERBATIM)
  list(APPEND proto_sources ${generated})
endforeach()
add_library(ingot_grpc_proto STATIC ${proto_sources})
target_compile_options(ingot_grpc_proto PRIVATE -w -O1)
target_include_directories(ingot_grpc_proto SYSTEM PUBLIC ${proto_out})
target_link_libraries(ingot_grpc_proto PUBLIC protobuf::libprotobuf PkgConfig::GRPCPP)

ingot_module(grpc DEPS frontends server base LIBS ingot_grpc_proto ${GRPCPP_REFLECTION})
