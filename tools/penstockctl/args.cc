// Two tables, of commands and of flags, and the parser that follows them.

#include "tools/penstockctl/args.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace penstock::ctl {
namespace {

struct VerbSpec {
  const char* name;
  Verb verb;
  const char* words;
  const char* summary;
  const char* details;
};

constexpr auto kVerbs = std::to_array<VerbSpec>({
    {"send", Verb::kSend, "NAME [ARG]...", "send one task",
     "Without --wait it prints the id of the task, with --wait its state.\n"
     "Example: penstockctl send add 1 1 --wait=10s\n"},
    {"group", Verb::kGroup, "TASK [: TASK]...",
     "send tasks that run in parallel",
     "TASK is NAME [ARG]...; a lone : stands between two. Prints the id of "
     "the\n"
     "group, then those of its members; with --wait the members' states.\n"
     "Example: penstockctl group add 1 1 : add 2 2 --wait=10s\n"},
    {"chain", Verb::kChain, "TASK [: TASK]...",
     "send tasks that run one after the other",
     "Each task gets the results of the one before it after its own "
     "arguments.\n"
     "Prints the ids, in order; with --wait the state of the last one.\n"
     "Example: penstockctl chain add 2 2 : add 5 6 : multiply 4 --wait=10s\n"},
    {"chord", Verb::kChord, "TASK : [TASK :]... CALLBACK",
     "send a group and what follows it",
     "CALLBACK, the last task, gets the results of all others after its own\n"
     "arguments. Prints the id of the group, those of its members and that of\n"
     "the callback; with --wait the state of the callback.\n"
     "Example: penstockctl chord add 1 1 : add 2 2 : multiply --wait=10s\n"},
    {"state", Verb::kState, "ID", "print the state of a task",
     "With --wait it waits for the task to end; the state as it is then is\n"
     "printed either way.\n"},
    {"watch", Verb::kWatch, "ID...", "print states as they change",
     "Ends when all tasks are final. --timeout, if given, ends it earlier.\n"},
    {"group-state", Verb::kGroupState, "ID", "print how a group stands",
     "Prints a line for the group, then one for each member.\n"},
    {"cancel", Verb::kCancel, "ID...", "cancel tasks",
     "What waits never starts; what runs on a Penstock worker is told to stop.\n"
     "Prints each state as it stands then; one that was final stays as it was.\n"},
    {"cancel-group", Verb::kCancelGroup, "ID",
     "cancel a group, and its callback",
     "Prints how many tasks were cancelled, and a line for the group.\n"},
    {"dead list", Verb::kDeadList, "", "list the dead letters of a queue",
     "Newest first: id, time, name, attempt and why it was given up.\n"},
    {"dead retry", Verb::kDeadRetry, "ID...", "send dead tasks again",
     "Each is sent as a copy under a new id, which is printed; its dead letter is\n"
     "removed then.\n"},
    {"dead delete", Verb::kDeadDelete, "ID...", "delete dead letters",
     "The states of their tasks stay as they are.\n"},
    {"schedules create", Verb::kSchedulesCreate,
     "NAME SPEC send|group|chain|chord TASK [: TASK]...",
     "send tasks again and again",
     "SPEC says when: five fields (minute, hour, day of the month, month, day of\n"
     "the week), @daily and the like, or \"@every 90s\"; \"CRON_TZ=Area/City \" "
     "before\nit names the time zone. The words after SPEC are those of the "
     "command that\nsends once.\n"
     "Example: penstockctl schedules create nightly \"0 3 * * *\" send add 1 1\n"},
    {"schedules list", Verb::kSchedulesList, "", "print all schedules",
     "Prints a line for each: its name, its spec, when it ticks next, what came\n"
     "of the last tick.\n"},
    {"schedules pause", Verb::kSchedulesPause, "NAME...",
     "let schedules tick no more", ""},
    {"schedules resume", Verb::kSchedulesResume, "NAME...",
     "let paused schedules tick again", ""},
    {"schedules delete", Verb::kSchedulesDelete, "NAME...", "remove schedules",
     "What they have sent goes on.\n"},
    {"help", Verb::kHelp, "[COMMAND]", "explain a command", ""},
});

const VerbSpec* FindVerb(const std::string& name) {
  auto found = std::find_if(kVerbs.begin(), kVerbs.end(),
                            [&](const VerbSpec& v) { return name == v.name; });
  return found == kVerbs.end() ? nullptr : &*found;
}

// The command that `words` begin with: some have a name of two words.
const VerbSpec* FirstVerb(const std::vector<std::string>& words) {
  if (words.empty()) return nullptr;
  const VerbSpec* two = nullptr;
  if (words.size() > 1) two = FindVerb(absl::StrCat(words[0], " ", words[1]));
  return two != nullptr ? two : FindVerb(words[0]);
}

size_t WordsOf(const VerbSpec& verb) {
  return std::string(verb.name).find(' ') == std::string::npos ? 1 : 2;
}

// "dead": what may follow it; empty: it begins no command.
std::string SecondWords(const std::string& first) {
  std::vector<std::string> seconds;
  for (const VerbSpec& verb : kVerbs) {
    const std::string name = verb.name;
    if (name.starts_with(first + " ")) {
      seconds.push_back(name.substr(first.size() + 1));
    }
  }
  return absl::StrJoin(seconds, ", ");
}

bool SetDuration(const std::string& text, absl::Duration& field) {
  return absl::ParseDuration(text, &field) && field >= absl::ZeroDuration() &&
         field < absl::Hours(24 * 365 * 100);
}

bool SetTime(const std::string& text, std::optional<absl::Time>& field) {
  absl::Time time;
  if (!absl::ParseTime(absl::RFC3339_full, text, &time, nullptr)) return false;
  field = time;
  return true;
}

template <typename Number>
bool SetNumber(const std::string& text, int64_t max, Number& field) {
  int64_t number = 0;
  if (!absl::SimpleAtoi(text, &number) || number < 0 || number > max) {
    return false;
  }
  field = static_cast<Number>(number);
  return true;
}

bool SetText(const std::string& text, std::string& field) {
  field = text;
  return !text.empty();
}

constexpr const char* kDuration = "a duration such as 10s or 500ms";

struct FlagSpec {
  const char* name;
  const char* value;     // how the help shows the value; empty: it takes none
  const char* expected;  // what a value must be
  const char* verbs;     // the commands it goes with; empty: all
  const char* help;
  bool (*set)(const std::string& text, Command& command);
};

constexpr auto kFlags = std::to_array<FlagSpec>({
    {"wait", "DURATION", kDuration, "send, group, chain, chord, state",
     "wait so long for the end, and print it",
     [](const std::string& t, Command& c) { return SetDuration(t, c.wait); }},
    {"eta", "TIME", "a time such as 2026-11-21T23:00:00Z", "send",
     "run the task at this time (RFC 3339)",
     [](const std::string& t, Command& c) { return SetTime(t, c.eta); }},
    {"delay", "DURATION", kDuration, "send, schedules create",
     "run the task so much later",
     [](const std::string& t, Command& c) {
       return SetDuration(t, c.delay.emplace());
     }},
    {"queue", "ROUTING_KEY", "a routing key",
     "send, schedules create, dead list, dead retry, dead delete",
     "use this one, not the default queue",
     [](const std::string& t, Command& c) { return SetText(t, c.queue); }},
    {"id", "ID", "an id", "send",
     "the task's id; sending it again is then safe",
     [](const std::string& t, Command& c) { return SetText(t, c.id); }},
    {"unique-key", "KEY", "a text", "send",
     "refused while another task of this key has not ended",
     [](const std::string& t, Command& c) { return SetText(t, c.unique_key); }},
    {"request-id", "ID", "an id", "send, group, chain, chord",
     "the same command under this id is carried out once",
     [](const std::string& t, Command& c) { return SetText(t, c.request_id); }},
    {"retries", "N", "a whole number from 0 to 1000000",
     "send, schedules create",
     "try so often again if it fails",
     [](const std::string& t, Command& c) {
       return SetNumber(t, 1'000'000, c.retries);
     }},
    {"priority", "N", "a whole number from 0 to 255", "send, schedules create",
     "higher is taken first, where the queue allows",
     [](const std::string& t, Command& c) {
       return SetNumber(t, 255, c.priority);
     }},
    {"run-missed", "", "", "schedules create",
     "run the ticks that were missed, as one; else they are skipped",
     [](const std::string&, Command& c) { return c.run_missed = true; }},
    {"reason", "TEXT", "a text", "cancel, cancel-group",
     "why; it becomes part of the error",
     [](const std::string& t, Command& c) { return SetText(t, c.reason); }},
    {"address", "HOST:PORT", "an address such as localhost:50051", "",
     "the gateway; also PENSTOCK_ADDRESS (localhost:50051)",
     [](const std::string& t, Command& c) { return SetText(t, c.address); }},
    {"json", "", "", "", "print the responses as JSON, one a line",
     [](const std::string&, Command& c) { return c.json = true; }},
    {"timeout", "DURATION", kDuration, "",
     "give a call up after this, beyond its wait (30s)",
     [](const std::string& t, Command& c) {
       return SetDuration(t, c.timeout.emplace()) &&
              *c.timeout > absl::ZeroDuration();
     }},
    {"help", "", "", "", "explain the command",
     [](const std::string&, Command&) { return true; }},
    {"version", "", "", "", "print the version",
     [](const std::string&, Command&) { return true; }},
});

const FlagSpec* FindFlag(const std::string& name) {
  auto found = std::find_if(kFlags.begin(), kFlags.end(),
                            [&](const FlagSpec& f) { return name == f.name; });
  return found == kFlags.end() ? nullptr : &*found;
}

bool GoesWith(const FlagSpec& flag, const std::string& verb) {
  if (flag.verbs[0] == '\0') return true;
  std::vector<std::string> verbs = absl::StrSplit(flag.verbs, ", ");
  return std::find(verbs.begin(), verbs.end(), verb) != verbs.end();
}

absl::Status UsageError(const std::string& text) {
  return absl::InvalidArgumentError(text);
}

bool IsDigit(char c) { return std::isdigit(static_cast<unsigned char>(c)); }

// "-1" and "-.5" are arguments; a lone "-" is one too.
bool LooksLikeFlag(const std::string& word) {
  if (word.size() < 2 || word[0] != '-') return false;
  if (IsDigit(word[1])) return false;
  return !(word[1] == '.' && word.size() > 2 && IsDigit(word[2]));
}

// The words, sorted: positional ones, and flags with their values.
struct Sorted {
  std::vector<std::string> positional;
  std::vector<std::pair<const FlagSpec*, std::string>> flags;
};

absl::StatusOr<Sorted> Sort(const std::vector<std::string>& words) {
  Sorted sorted;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--") {
      sorted.positional.insert(sorted.positional.end(), words.begin() + i + 1,
                               words.end());
      break;
    }
    if (!LooksLikeFlag(word)) {
      sorted.positional.push_back(word);
      continue;
    }
    size_t equals = word.find('=');
    std::string name = word == "-h" ? "--help" : word.substr(0, equals);
    const FlagSpec* flag =
        name.starts_with("--") ? FindFlag(name.substr(2)) : nullptr;
    if (flag == nullptr) {
      return UsageError(absl::StrCat("unknown flag ", name,
                                     " (to pass it as an argument, put -- "
                                     "before it)"));
    }
    bool has_value = equals != std::string::npos;
    if (flag->value[0] == '\0') {
      if (has_value) return UsageError(absl::StrCat(name, " takes no value"));
      sorted.flags.emplace_back(flag, "");
    } else if (has_value) {
      sorted.flags.emplace_back(flag, word.substr(equals + 1));
    } else if (i + 1 < words.size()) {
      sorted.flags.emplace_back(flag, words[++i]);
    } else {
      return UsageError(
          absl::StrCat(name, " needs a value: ", name, "=", flag->value));
    }
  }
  return sorted;
}

absl::Status SetFlags(const Sorted& sorted, const std::string& verb,
                      Command& command) {
  for (const auto& [flag, text] : sorted.flags) {
    if (!GoesWith(*flag, verb)) {
      return UsageError(
          absl::StrCat("--", flag->name, " does not go with ", verb));
    }
    if (!flag->set(text, command)) {
      return UsageError(absl::StrCat("--", flag->name, ": expected ",
                                     flag->expected, ", found \"", text, "\""));
    }
  }
  if (command.eta.has_value() && command.delay.has_value()) {
    return UsageError("--eta and --delay exclude each other");
  }
  return absl::OkStatus();
}

absl::Status SplitTasks(const std::vector<std::string>& words,
                        Command& command) {
  command.tasks.emplace_back();
  for (const std::string& word : words) {
    TaskWords& task = command.tasks.back();
    if (word == ":") {
      command.tasks.emplace_back();
    } else if (task.name.empty() && task.args.empty()) {
      if (word.empty()) return UsageError("a task's name is empty");
      task.name = word;
    } else {
      task.args.push_back(word);
    }
  }
  for (size_t i = 0; i < command.tasks.size(); ++i) {
    if (command.tasks[i].name.empty()) {
      return UsageError(absl::StrCat("task ", i + 1,
                                     " has no name (a lone : stands between "
                                     "two tasks)"));
    }
  }
  return absl::OkStatus();
}

// The tasks of a command that sends.
absl::Status SetTasks(Verb verb, const std::vector<std::string>& words,
                      Command& command) {
  absl::Status split = SplitTasks(words, command);
  if (!split.ok()) return split;
  if (verb == Verb::kSend && command.tasks.size() > 1) {
    return UsageError(
        "send takes one task (a lone : as an argument is "
        "written string::)");
  }
  if (verb == Verb::kChord && command.tasks.size() < 2) {
    return UsageError("chord takes at least one task and its callback");
  }
  return absl::OkStatus();
}

// NAME SPEC send|group|chain|chord TASK...
absl::Status SetSchedule(const std::vector<std::string>& words,
                         Command& command) {
  if (words.size() < 4) {
    return UsageError(
        "schedules create takes NAME SPEC send|group|chain|chord TASK "
        "[: TASK]... (SPEC is one word: put it in quotes)");
  }
  command.schedule_name = words[0];
  command.cron_spec = words[1];
  const VerbSpec* kind = FindVerb(words[2]);
  if (kind == nullptr ||
      (kind->verb != Verb::kSend && kind->verb != Verb::kGroup &&
       kind->verb != Verb::kChain && kind->verb != Verb::kChord)) {
    return UsageError(absl::StrCat(
        "after SPEC: expected send, group, chain or chord, found \"", words[2],
        "\" (SPEC is one word: put it in quotes)"));
  }
  command.scheduled = kind->verb;
  if (kind->verb != Verb::kSend &&
      (command.delay.has_value() || !command.queue.empty() ||
       command.retries != 0 || command.priority != 0)) {
    return UsageError(
        "--delay, --queue, --retries and --priority go with send only");
  }
  return SetTasks(kind->verb, {words.begin() + 3, words.end()}, command);
}

// What the words after the command mean to it.
absl::Status SetWords(const VerbSpec& verb, std::vector<std::string> words,
                      Command& command) {
  switch (verb.verb) {
    case Verb::kSend:
    case Verb::kGroup:
    case Verb::kChain:
    case Verb::kChord:
      return SetTasks(verb.verb, words, command);
    case Verb::kSchedulesCreate:
      return SetSchedule(words, command);
    case Verb::kSchedulesList:
      if (words.empty()) return absl::OkStatus();
      return UsageError("schedules list takes no words");
    case Verb::kSchedulesPause:
    case Verb::kSchedulesResume:
    case Verb::kSchedulesDelete:
      if (words.empty()) {
        return UsageError(absl::StrCat(verb.name, " takes at least one NAME"));
      }
      break;
    case Verb::kState:
    case Verb::kGroupState:
    case Verb::kCancelGroup:
      if (words.size() != 1) {
        return UsageError(
            absl::StrCat(verb.name, " takes one ID, found ", words.size()));
      }
      break;
    case Verb::kWatch:
    case Verb::kCancel:
    case Verb::kDeadRetry:
    case Verb::kDeadDelete:
      if (words.empty()) {
        return UsageError(absl::StrCat(verb.name, " takes at least one ID"));
      }
      break;
    case Verb::kDeadList:
      if (!words.empty()) {
        return UsageError("dead list takes no words; name a queue with --queue");
      }
      return absl::OkStatus();
    case Verb::kHelp: {
      if (words.empty()) return absl::OkStatus();
      const VerbSpec* topic = FirstVerb(words);
      if (topic == nullptr) {
        return UsageError(absl::StrCat("unknown command ",
                                       absl::StrJoin(words, " ")));
      }
      if (words.size() > WordsOf(*topic)) {
        return UsageError("help takes one command");
      }
      command.topic = topic->name;
      return absl::OkStatus();
    }
    case Verb::kVersion:
      return absl::OkStatus();
  }
  if (std::find(words.begin(), words.end(), "") != words.end()) {
    return UsageError(verb.verb == Verb::kSchedulesPause ||
                              verb.verb == Verb::kSchedulesResume ||
                              verb.verb == Verb::kSchedulesDelete
                          ? "a NAME is empty"
                          : "an ID is empty");
  }
  command.ids = std::move(words);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Command> ParseArgs(
    const std::vector<std::string>& words,
    const std::function<std::optional<std::string>(const std::string&)>&
        environment) {
  absl::StatusOr<Sorted> sorted = Sort(words);
  if (!sorted.ok()) return sorted.status();

  Command command;
  const VerbSpec* verb = FirstVerb(sorted->positional);
  for (const auto& [flag, value] : sorted->flags) {
    if (flag->name == std::string("version")) {
      command.verb = Verb::kVersion;
      return command;
    }
    if (flag->name == std::string("help")) {
      command.verb = Verb::kHelp;
      command.topic = verb == nullptr ? "" : verb->name;
      return command;
    }
  }
  if (sorted->positional.empty()) return UsageError("a command is missing");
  if (verb == nullptr) {
    const std::string& word = sorted->positional.front();
    const std::string seconds = SecondWords(word);
    if (seconds.empty()) {
      return UsageError(absl::StrCat("unknown command ", word));
    }
    return UsageError(
        absl::StrCat(word, " is followed by one of: ", seconds));
  }

  command.verb = verb->verb;
  if (std::optional<std::string> address = environment("PENSTOCK_ADDRESS");
      address.has_value() && !address->empty()) {
    command.address = *std::move(address);
  }
  absl::Status set = SetFlags(*sorted, verb->name, command);
  if (!set.ok()) return set;
  set = SetWords(*verb,
                 {sorted->positional.begin() + WordsOf(*verb),
                  sorted->positional.end()},
                 command);
  if (!set.ok()) return set;
  return command;
}

std::string HelpText(const std::string& topic) {
  const VerbSpec* verb = FindVerb(topic);
  std::string text;
  if (verb != nullptr) {
    absl::StrAppend(&text, "usage: penstockctl [FLAG]... ", verb->name, " ",
                    verb->words, "\n", verb->summary, "\n\n", verb->details);
  } else {
    text = "usage: penstockctl [FLAG]... COMMAND [WORD]...\n\n";
    for (const VerbSpec& spec : kVerbs) {
      absl::StrAppendFormat(&text, "  %-17s%-29s %s\n", spec.name, spec.words,
                            spec.summary);
    }
  }
  absl::StrAppend(&text,
                  "\nAn ARG is an int64 (1), a float64 (1.5), a bool (true) or "
                  "a string, or TYPE:VALUE\n"
                  "with a type of machinery: string:1, uint8:7, []int64:1,2, "
                  "[]byte:aGk=.\n\nFlags, anywhere before a lone --:\n");
  for (const FlagSpec& flag : kFlags) {
    if (verb != nullptr && !GoesWith(flag, verb->name)) continue;
    std::string shown = absl::StrCat(
        "--", flag.name, flag.value[0] == '\0' ? "" : "=", flag.value);
    std::string only = verb == nullptr && flag.verbs[0] != '\0'
                           ? absl::StrCat(" [", flag.verbs, "]")
                           : "";
    absl::StrAppendFormat(&text, "  %-20s%s%s\n", shown, flag.help, only);
  }
  absl::StrAppend(&text,
                  "\nExit status: 0 accepted or SUCCESS, 1 the task failed, "
                  "2 usage, 3 the call failed.\n");
  return text;
}

}  // namespace penstock::ctl
