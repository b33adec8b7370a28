// The parts of queue/amqp/ that need no server: URLs, which acks are due, the
// back-off.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "queue/amqp/amqp_broker.h"
#include "queue/amqp/connection.h"
#include "queue/amqp/consumer.h"
#include "queue/amqp/topology.h"
#include "queue/config.h"
#include "tests/support/fake_environment.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using Ack = UnackedTags::Ack;

TEST(AmqpUrl, SaysEverything) {
  auto address = ParseAmqpUrl("amqp://us%65r:p%40ss%2Fword@rabbit:5673/my%2Fv",
                              TlsOptions());
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_EQ(*address, (AmqpAddress{.host = "rabbit",
                                   .port = 5673,
                                   .user = "user",
                                   .password = "p@ss/word",
                                   .vhost = "my/v"}));
  EXPECT_EQ(address->Name(), "rabbit:5673/my/v");
}

TEST(AmqpUrl, LeavesOutWhatIsStandard) {
  for (const char* url : {"amqp://", "amqp://localhost", "AMQP://localhost/",
                          "amqp://guest:guest@localhost:5672/%2f"}) {
    auto address = ParseAmqpUrl(url, TlsOptions());
    ASSERT_TRUE(address.ok()) << url << ": " << address.status();
    EXPECT_EQ(*address, AmqpAddress()) << url;
  }
}

TEST(AmqpUrl, KnowsIpv6AndIgnoresOptions) {
  auto address =
      ParseAmqpUrl("amqp://u:p@[::1]:5673/v?heartbeat=5", TlsOptions());
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_EQ(address->host, "::1");
  EXPECT_EQ(address->port, 5673);
  EXPECT_EQ(address->vhost, "v");
}

TEST(AmqpUrl, AmqpsIsTlsWithAPortOfItsOwn) {
  const TlsOptions tls = {.ca_file = "/ca.pem"};
  auto address = ParseAmqpUrl("AMQPS://u:p@host/v", tls);
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_EQ(*address, (AmqpAddress{.host = "host",
                                   .port = 5671,
                                   .user = "u",
                                   .password = "p",
                                   .vhost = "v",
                                   .tls = tls}));
  EXPECT_EQ(ParseAmqpUrl("amqps://host:7", tls)->port, 7);
  EXPECT_FALSE(ParseAmqpUrl("amqp://host", tls)->tls.has_value());
}

TEST(AmqpUrl, AnErrorNeverShowsThePassword) {
  for (const char* url :
       {"amqps://u:secret@host:0", "http://u:secret@host", "u:secret@host",
        "amqp://u:secret@host:port", "amqp://u:secret@host:0",
        "amqp://u:secret@host:70000", "amqp://u:secret%zz@host",
        "amqp://u:secret@host/%f", "amqp://u:secret@[::1",
        "amqp://u:secret@[::1]x"}) {
    const absl::Status status = ParseAmqpUrl(url, TlsOptions()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << url;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("secret")));
  }
}

TEST(AmqpTopology, DefaultRoutingKeyIsTheBindingKeyOfADirectExchange) {
  Options options;
  options.default_queue = "queue";
  options.amqp.binding_key = "key";
  EXPECT_EQ(AmqpDefaultRoutingKey(options), "key");
  options.amqp.exchange_type = "topic";
  EXPECT_EQ(AmqpDefaultRoutingKey(options), "queue");
}

class Unacked : public ::testing::Test {
 protected:
  void Deliver(int count) {
    for (int i = 0; i < count; ++i) tags_.DeliverNext();
  }

  UnackedTags tags_;
};

TEST_F(Unacked, CountFromOneWithoutGaps) {
  EXPECT_EQ(tags_.next(), 1u);
  Deliver(3);
  EXPECT_EQ(tags_.next(), 4u);
  EXPECT_TRUE(tags_.Finish(2));
  tags_.TakeDue(10);
  EXPECT_EQ(tags_.next(), 4u);
}

TEST_F(Unacked, AContiguousRunGoesInOneFrame) {
  Deliver(5);
  for (uint64_t tag : {3, 1, 2}) EXPECT_TRUE(tags_.Finish(tag));
  EXPECT_TRUE(tags_.HasDue());
  EXPECT_THAT(tags_.TakeDue(10), ElementsAre(Ack{3, true}));
  EXPECT_FALSE(tags_.HasDue());
}

TEST_F(Unacked, ASingleOneIsNotMultiple) {
  Deliver(2);
  tags_.Finish(1);
  EXPECT_THAT(tags_.TakeDue(10), ElementsAre(Ack{1, false}));
}

TEST_F(Unacked, FinishedOnesDoNotWaitBehindALongOne) {
  Deliver(5);
  tags_.Finish(4);
  tags_.Finish(2);
  EXPECT_THAT(tags_.TakeDue(10), ElementsAre(Ack{4, false}, Ack{2, false}));
  // The long one ends: what went singly is not sent again.
  tags_.Finish(1);
  tags_.Finish(3);
  EXPECT_THAT(tags_.TakeDue(10), ElementsAre(Ack{3, true}));
  EXPECT_FALSE(tags_.HasDue());
}

TEST_F(Unacked, NoAckCoversOneWhoseReturnIsNotSent) {
  Deliver(3);
  EXPECT_TRUE(tags_.Return(1));
  tags_.Finish(2);
  tags_.Finish(3);
  EXPECT_THAT(tags_.TakeDue(1), ElementsAre(Ack{2, false}));
  tags_.ReturnSent(1);
  EXPECT_THAT(tags_.TakeDue(10), ElementsAre(Ack{3, false}));
  EXPECT_EQ(tags_.next(), 4u);
}

TEST_F(Unacked, EachEndsOnce) {
  Deliver(2);
  EXPECT_TRUE(tags_.Finish(1));
  EXPECT_FALSE(tags_.Finish(1));
  EXPECT_FALSE(tags_.Return(1));
  tags_.TakeDue(10);
  EXPECT_FALSE(tags_.Finish(1));
  EXPECT_TRUE(tags_.Return(2));
  EXPECT_FALSE(tags_.Finish(2));
  EXPECT_FALSE(tags_.Finish(0));
  EXPECT_FALSE(tags_.Finish(3));
  EXPECT_THAT(tags_.TakeDue(10), IsEmpty());
}

TEST_F(Unacked, WhatIsOverTheLimitStaysDue) {
  Deliver(5);
  for (uint64_t tag : {2, 3, 4, 5}) tags_.Finish(tag);
  EXPECT_THAT(tags_.TakeDue(2), ElementsAre(Ack{2, false}, Ack{3, false}));
  EXPECT_TRUE(tags_.HasDue());
  tags_.Finish(1);
  EXPECT_THAT(tags_.TakeDue(2), ElementsAre(Ack{5, true}));
  EXPECT_FALSE(tags_.HasDue());
}

TEST(AmqpBackoff, DoublesToTwoSecondsAndStartsAnew) {
  Backoff backoff;
  EXPECT_EQ(backoff.Next(0), absl::Milliseconds(25));
  EXPECT_EQ(backoff.Next(0), absl::Milliseconds(50));
  for (int i = 0; i < 10; ++i) backoff.Next(0.5);
  EXPECT_EQ(backoff.Next(0), absl::Seconds(1));
  EXPECT_LT(backoff.Next(0.999), absl::Seconds(2));
  backoff.Reset();
  EXPECT_EQ(backoff.Next(0), absl::Milliseconds(25));
}

// A socket with its other end, as a connection and its server.
class Guard : public ::testing::Test {
 protected:
  Guard() : guard_(SocketGuard::Make(&environment_)) {
    int pair[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ours_ = pair[0];
    theirs_ = pair[1];
  }
  ~Guard() override {
    close(ours_);
    close(theirs_);
  }

  bool IsShutDown() const {
    return send(ours_, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0;
  }

  FakeEnvironment environment_;
  const std::shared_ptr<SocketGuard> guard_;
  int ours_ = -1;
  int theirs_ = -1;
};

TEST_F(Guard, EndsTheConnectionOfAnOwnerThatIsStuck) {
  guard_->Adopt(ours_);
  guard_->Enter(absl::Minutes(1));
  environment_.Advance(absl::Seconds(3));
  EXPECT_FALSE(IsShutDown());
  guard_->Enter(-absl::Seconds(1));
  environment_.Advance(absl::Seconds(3));
  EXPECT_TRUE(IsShutDown());
}

TEST_F(Guard, LetsAnIdleOwnerBe) {
  guard_->Adopt(ours_);
  guard_->Enter(-absl::Seconds(1));
  guard_->Leave();
  environment_.Advance(absl::Seconds(3));
  EXPECT_FALSE(IsShutDown());
}

TEST_F(Guard, DoesNotTouchAConnectionThatIsOver) {
  guard_->Adopt(ours_);
  guard_->Release();
  guard_->End();
  EXPECT_FALSE(IsShutDown());
}

TEST_F(Guard, AfterTheEndTheNextConnectionIsShutDownToo) {
  guard_->End();
  guard_->Adopt(ours_);
  EXPECT_TRUE(IsShutDown());
}

}  // namespace
}  // namespace penstock
