// The messages of a unary call, in one arena: a request of many tasks is taken
// apart by one free in place of several for each task. Included by .cc files
// only: it sees grpcpp.

#ifndef PENSTOCK_GATEWAY_ARENA_MESSAGES_H_
#define PENSTOCK_GATEWAY_ARENA_MESSAGES_H_

#include <cstddef>

#include "google/protobuf/arena.h"
#include "grpcpp/support/message_allocator.h"

namespace penstock {

// For CallbackService's SetMessageAllocatorFor_...; must outlive the server.
template <typename Request, typename Response>
class ArenaMessages final : public grpc::MessageAllocator<Request, Response> {
 public:
  grpc::MessageHolder<Request, Response>* AllocateMessages() override {
    return new Holder;
  }

 private:
  class Holder final : public grpc::MessageHolder<Request, Response> {
   public:
    Holder() : arena_(OptionsOf(first_)) {
      using google::protobuf::Arena;
      this->set_request(Arena::CreateMessage<Request>(&arena_));
      this->set_response(Arena::CreateMessage<Response>(&arena_));
    }

    void Release() override { delete this; }

   private:
    static constexpr size_t kFirst = 1024;  // a task and its answer
    static constexpr size_t kMostBlock = 64 << 10;

    static google::protobuf::ArenaOptions OptionsOf(char* first) {
      google::protobuf::ArenaOptions options;
      options.initial_block = first;
      options.initial_block_size = kFirst;
      options.start_block_size = 4 * kFirst;
      options.max_block_size = kMostBlock;
      return options;
    }

    alignas(std::max_align_t) char first_[kFirst];
    google::protobuf::Arena arena_;
  };
};

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_ARENA_MESSAGES_H_
