// What a user types, and what penstockctl makes of it.

#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/penstockctl/args.h"

namespace penstock::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::optional<std::string> NoVariable(const std::string&) {
  return std::nullopt;
}

Command Parse(const std::vector<std::string>& words) {
  absl::StatusOr<Command> command = ParseArgs(words, NoVariable);
  EXPECT_TRUE(command.ok()) << command.status();
  return command.value_or(Command{});
}

std::string ErrorOf(const std::vector<std::string>& words) {
  absl::StatusOr<Command> command = ParseArgs(words, NoVariable);
  EXPECT_FALSE(command.ok());
  return std::string(command.status().message());
}

TEST(PenstockctlArgsTest, SendTakesANameAndArguments) {
  Command command = Parse({"send", "add", "1", "1"});
  EXPECT_EQ(command.verb, Verb::kSend);
  EXPECT_THAT(command.tasks, ElementsAre(TaskWords{"add", {"1", "1"}}));
  EXPECT_EQ(command.address, "localhost:50051");
  EXPECT_FALSE(command.json);
  EXPECT_EQ(command.wait, absl::ZeroDuration());
}

TEST(PenstockctlArgsTest, FlagsStandAnywhere) {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{
           {"--json", "--wait=10s", "send", "add", "1"},
           {"send", "--wait", "10s", "add", "--json", "1"},
           {"send", "add", "1", "--wait=10s", "--json"}}) {
    Command command = Parse(words);
    EXPECT_THAT(command.tasks, ElementsAre(TaskWords{"add", {"1"}}));
    EXPECT_EQ(command.wait, absl::Seconds(10));
    EXPECT_TRUE(command.json);
  }
}

TEST(PenstockctlArgsTest, NumbersAreNeverFlags) {
  Command command = Parse({"send", "add", "-1", "2", "-.5", "-1e3", "-"});
  EXPECT_THAT(command.tasks,
              ElementsAre(TaskWords{"add", {"-1", "2", "-.5", "-1e3", "-"}}));
}

TEST(PenstockctlArgsTest, ALoneDoubleDashEndsTheFlags) {
  Command command = Parse({"send", "--json", "--", "echo", "--wait", "--"});
  EXPECT_THAT(command.tasks, ElementsAre(TaskWords{"echo", {"--wait", "--"}}));
  EXPECT_TRUE(command.json);
}

TEST(PenstockctlArgsTest, EveryFlagOfSendIsRead) {
  Command command = Parse({"send", "add", "--eta=2026-11-21T23:00:00.5+01:00",
                           "--queue=q", "--id=my-id", "--retries=3",
                           "--priority=255", "--timeout=5s", "--address=h:1"});
  EXPECT_EQ(command.eta,
            absl::FromCivil(absl::CivilSecond(2026, 11, 21, 22, 0, 0),
                            absl::UTCTimeZone()) +
                absl::Milliseconds(500));
  EXPECT_EQ(command.queue, "q");
  EXPECT_EQ(command.id, "my-id");
  EXPECT_EQ(command.retries, 3);
  EXPECT_EQ(command.priority, 255u);
  EXPECT_EQ(command.timeout, absl::Seconds(5));
  EXPECT_EQ(command.address, "h:1");
  EXPECT_EQ(Parse({"send", "add", "--delay=1m"}).delay, absl::Minutes(1));
}

TEST(PenstockctlArgsTest, TheEnvironmentNamesTheGatewayAndAFlagOverridesIt) {
  auto environment = [](const std::string& name) -> std::optional<std::string> {
    if (name == "PENSTOCK_ADDRESS") return "from:1";
    return std::nullopt;
  };
  EXPECT_EQ(ParseArgs({"state", "x"}, environment)->address, "from:1");
  EXPECT_EQ(ParseArgs({"state", "x", "--address=flag:2"}, environment)->address,
            "flag:2");
}

TEST(PenstockctlArgsTest, ALoneColonSeparatesTasks) {
  Command command =
      Parse({"chord", "add", "1", "1", ":", "add", "2", "2", ":", "multiply"});
  EXPECT_EQ(command.verb, Verb::kChord);
  EXPECT_THAT(command.tasks, ElementsAre(TaskWords{"add", {"1", "1"}},
                                         TaskWords{"add", {"2", "2"}},
                                         TaskWords{"multiply", {}}));
  EXPECT_EQ(Parse({"group", "a"}).tasks.size(), 1u);
  EXPECT_EQ(Parse({"chain", "a", ":", "b:c",
                   ":"
                   ":"})
                .tasks.size(),
            2u);
}

TEST(PenstockctlArgsTest, IdsAndTopics) {
  EXPECT_THAT(Parse({"state", "task_1"}).ids, ElementsAre("task_1"));
  EXPECT_THAT(Parse({"watch", "a", "b"}).ids, ElementsAre("a", "b"));
  EXPECT_EQ(Parse({"group-state", "g"}).verb, Verb::kGroupState);
  EXPECT_EQ(Parse({"help", "chord"}).topic, "chord");
  EXPECT_EQ(Parse({"send", "--help"}).topic, "send");
  EXPECT_EQ(Parse({"-h"}).verb, Verb::kHelp);
  EXPECT_EQ(Parse({"--version"}).verb, Verb::kVersion);
}

TEST(PenstockctlArgsTest, SomeCommandsHaveTwoWords) {
  const Command list = Parse({"dead", "--queue=q", "list"});
  EXPECT_EQ(list.verb, Verb::kDeadList);
  EXPECT_EQ(list.queue, "q");
  const Command retry = Parse({"dead", "retry", "a", "b"});
  EXPECT_EQ(retry.verb, Verb::kDeadRetry);
  EXPECT_THAT(retry.ids, ElementsAre("a", "b"));
  EXPECT_EQ(Parse({"dead", "delete", "a"}).verb, Verb::kDeadDelete);
  EXPECT_EQ(Parse({"help", "dead", "retry"}).topic, "dead retry");
  EXPECT_EQ(Parse({"dead", "retry", "--help"}).topic, "dead retry");
  EXPECT_THAT(HelpText("dead retry"), HasSubstr("--queue=ROUTING_KEY"));
  EXPECT_EQ(ErrorOf({"dead"}),
            "dead is followed by one of: list, retry, delete");
  EXPECT_EQ(ErrorOf({"dead", "a"}),
            "dead is followed by one of: list, retry, delete");
  EXPECT_THAT(ErrorOf({"dead", "list", "q"}), HasSubstr("--queue"));
  EXPECT_EQ(ErrorOf({"dead", "retry"}), "dead retry takes at least one ID");
  EXPECT_EQ(ErrorOf({"dead", "retry", "a", "--wait=1s"}),
            "--wait does not go with dead retry");
  EXPECT_EQ(ErrorOf({"help", "dead"}), "unknown command dead");
  EXPECT_EQ(ErrorOf({"help", "send", "list"}), "help takes one command");
}

TEST(PenstockctlArgsTest, SchedulesTakeANameASpecAndWhatToSend) {
  const Command create =
      Parse({"schedules", "create", "nightly", "0 3 * * *", "chord", "a", "1",
             ":", "b", "--run-missed"});
  EXPECT_EQ(create.verb, Verb::kSchedulesCreate);
  EXPECT_EQ(create.schedule_name, "nightly");
  EXPECT_EQ(create.cron_spec, "0 3 * * *");
  EXPECT_EQ(create.scheduled, Verb::kChord);
  EXPECT_TRUE(create.run_missed);
  ASSERT_EQ(create.tasks.size(), 2);
  EXPECT_THAT(create.tasks[0].args, ElementsAre("1"));
  EXPECT_EQ(Parse({"schedules", "list"}).verb, Verb::kSchedulesList);
  EXPECT_THAT(Parse({"schedules", "pause", "a", "b"}).ids,
              ElementsAre("a", "b"));
  EXPECT_EQ(Parse({"schedules", "resume", "a"}).verb, Verb::kSchedulesResume);
  EXPECT_EQ(Parse({"schedules", "delete", "a"}).verb, Verb::kSchedulesDelete);

  EXPECT_THAT(ErrorOf({"schedules", "create", "n", "0", "3", "*", "*", "*",
                       "send", "add"}),
              HasSubstr("found \"3\" (SPEC is one word: put it in quotes)"));
  EXPECT_THAT(ErrorOf({"schedules", "create", "n", "@daily", "send"}),
              HasSubstr("schedules create takes NAME SPEC"));
  EXPECT_EQ(ErrorOf({"schedules", "create", "n", "@daily", "chord", "a"}),
            "chord takes at least one task and its callback");
  EXPECT_EQ(ErrorOf({"schedules", "create", "n", "@daily", "group", "a",
                     "--delay=1s"}),
            "--delay, --queue, --retries and --priority go with send only");
  EXPECT_EQ(ErrorOf({"schedules", "pause"}),
            "schedules pause takes at least one NAME");
  EXPECT_EQ(ErrorOf({"schedules", "list", "a"}), "schedules list takes no words");
  EXPECT_EQ(ErrorOf({"schedules"}),
            "schedules is followed by one of: create, list, pause, resume, "
            "delete");
}

TEST(PenstockctlArgsTest, UsageErrorsNameTheWordAtFault) {
  EXPECT_EQ(ErrorOf({}), "a command is missing");
  EXPECT_EQ(ErrorOf({"sned", "add"}), "unknown command sned");
  EXPECT_EQ(ErrorOf({"help", "sned"}), "unknown command sned");
  EXPECT_THAT(ErrorOf({"send", "add", "--wiat=1s"}),
              HasSubstr("unknown flag --wiat"));
  EXPECT_THAT(ErrorOf({"send", "add", "-x"}), HasSubstr("unknown flag -x"));
  EXPECT_EQ(ErrorOf({"send", "add", "--wait"}),
            "--wait needs a value: --wait=DURATION");
  EXPECT_EQ(ErrorOf({"send", "add", "--json=1"}), "--json takes no value");
  EXPECT_EQ(ErrorOf({"send", "add", "--wait=10"}),
            "--wait: expected a duration such as 10s or 500ms, found \"10\"");
  EXPECT_THAT(ErrorOf({"send", "add", "--wait=-1s"}), HasSubstr("--wait"));
  EXPECT_THAT(ErrorOf({"send", "add", "--timeout=0s"}), HasSubstr("--timeout"));
  EXPECT_THAT(ErrorOf({"send", "add", "--eta=tomorrow"}), HasSubstr("--eta"));
  EXPECT_THAT(ErrorOf({"send", "add", "--priority=256"}),
              HasSubstr("--priority: expected a whole number from 0 to 255"));
  EXPECT_EQ(ErrorOf({"chain", "add", "--eta=2026-11-21T23:00:00Z"}),
            "--eta does not go with chain");
  EXPECT_EQ(
      ErrorOf({"send", "add", "--delay=1s", "--eta=2026-11-21T23:00:00Z"}),
      "--eta and --delay exclude each other");
  EXPECT_THAT(ErrorOf({"send"}), HasSubstr("task 1 has no name"));
  EXPECT_THAT(ErrorOf({"group", "a", ":", ":", "b"}),
              HasSubstr("task 2 has no name"));
  EXPECT_THAT(ErrorOf({"send", "a", ":", "b"}), HasSubstr("one task"));
  EXPECT_THAT(ErrorOf({"chord", "a"}), HasSubstr("its callback"));
  EXPECT_EQ(ErrorOf({"state"}), "state takes one ID, found 0");
  EXPECT_EQ(ErrorOf({"state", "a", "b"}), "state takes one ID, found 2");
  EXPECT_EQ(ErrorOf({"watch"}), "watch takes at least one ID");
  EXPECT_EQ(ErrorOf({"state", ""}), "an ID is empty");
}

TEST(PenstockctlArgsTest, HelpShowsWhatGoesWithTheCommand) {
  EXPECT_THAT(HelpText(""), HasSubstr("group-state"));
  EXPECT_THAT(HelpText("send"), HasSubstr("--priority=N"));
  EXPECT_THAT(HelpText("state"), HasSubstr("--wait=DURATION"));
  EXPECT_THAT(HelpText("state"), Not(HasSubstr("--priority")));
}

}  // namespace
}  // namespace penstock::ctl
