"""What is wrong with a command line, said in one sentence.

Owns the explanation of whatever docopt refused, and the suggestions for what was mistyped. It is imported only when
there is something to explain, and may take its time.
"""

from __future__ import annotations

import docopt

from queuectl.cli import GROUPS, MODULES, TEXT
from queuectl.cli.door import HelpWanted, Misuse, usage_of
from queuectl.core.names import is_id
from queuectl.core.states import STATES

# What other queues, and people, call our commands.
_HABITS = {
    "add": "enqueue", "push": "enqueue", "put": "enqueue", "submit": "enqueue", "queue": "enqueue", "batch": "enqueue",
    "ls": "list", "jobs": "list", "ps": "list", "rm": "cancel", "kill": "cancel", "remove": "cancel",
    "delete": "cancel", "start": "worker start", "work": "worker start", "run": "worker start", "stop": "worker stop",
    "workers": "worker list", "retry": "dlq retry", "requeue": "dlq retry", "dead": "dlq list", "purge": "dlq purge",
    "clean": "prune", "log": "logs", "output": "logs", "tail": "logs", "follow": "logs", "info": "show", "get": "show",
    "stats": "status", "test-queue": "demo", "test": "demo", "set": "config set", "settings": "config list",
    "top": "status", "watch": "status", "monitor": "status", "version": "--version", "worker status": "worker list",
    "worker show": "worker list", "worker ls": "worker list", "worker run": "worker start",
    "worker stats": "worker list", "config show": "config list", "config ls": "config list", "dlq show": "dlq list",
    "dlq ls": "dlq list", "dlq requeue": "dlq retry", "dlq clear": "dlq purge", "dlq clean": "dlq purge",
}  # fmt: skip
_ACTS = ("start", "stop", "purge", "unset", "cancel", "prune")  # `restart` is not `start`: only slips lead to these


def explain(name: str, text: str, formal: str, argv: list[str], said: str) -> Misuse | HelpWanted:
    """The error for arguments that docopt refused with the words `said`; or the help, if that was asked for."""
    sections = docopt.parse_docstring_sections(formal)
    options = docopt.parse_options(sections.after_usage)
    pattern = docopt.parse_pattern(docopt.formal_usage(sections.usage_body), list(options))
    known = {option.name for option in options}
    try:
        found = docopt.parse_argv(docopt.Tokens(list(argv)), list(options), not name or name in GROUPS)
    except docopt.DocoptExit:
        if _asks_for_help(argv):
            return HelpWanted(text)
        return Misuse(_value_sentence(said), usage_of(text))
    given = [item for item in found if isinstance(item, docopt.Option)]
    words = [str(item.value) for item in found if not isinstance(item, docopt.Option) and item.value != "--"]
    if any(option.name == "--help" for option in given):
        return HelpWanted(text)
    repeatable = {option.name for many in pattern.flat(docopt.OneOrMore) for option in many.flat(docopt.Option)}
    names = [str(option.name) for option in given]
    for option in names:
        if option not in known:
            return Misuse(_unknown_option(name, option, sorted(filter(None, known)), words), usage_of(text))
    for option in names:
        if names.count(option) > 1 and option not in repeatable:
            return Misuse(f"{option} is given twice; give it once.", usage_of(text))
    return Misuse(_wrong_words(name, pattern, text, names, words), usage_of(text))


def unknown_command(word: str) -> Misuse:
    """The error for a command that does not exist."""
    group, _, action = word.partition(" ")
    if action and group in GROUPS:
        actions = [known.partition(" ")[2] for known in MODULES if known.startswith(f"{group} ")]
        near = _HABITS.get(word)
        if near is None and (like := _nearest(action, actions)):
            near = f"{group} {like}"
        hint = f"Did you mean `queuectl {near}`?" if near else f"There are {_either(actions, 'and')}."
        return Misuse(f"There is no `{group} {action}`. {hint}", f"Usage: queuectl {group} <action> [<argument>...]")
    names = sorted({known.partition(" ")[0] for known in MODULES})
    spaced = _nearest(word.replace(":", " "), [known for known in MODULES if " " in known]) if ":" in word else None
    near = _HABITS.get(word) or spaced or _nearest(word, names) or _HABITS.get(_nearest(word, sorted(_HABITS)) or "")
    hint = f"Did you mean `queuectl {near}`?" if near else "`queuectl --help` lists the commands."
    return Misuse(f"There is no command {word!a}. {hint}", usage_of(TEXT))


def _nearest(word: str, known: list[str]) -> str | None:
    import difflib

    near = difflib.get_close_matches(word.lower(), known, 1, 0.7)
    return next((like for like in near if like not in _ACTS or abs(len(word) - len(like)) < 2), None)


def _asks_for_help(argv: list[str]) -> bool:
    words = argv[: argv.index("--")] if "--" in argv else argv
    return "--help" in words or "-h" in words


def _value_sentence(said: str) -> str:
    """docopt's words for an option with no value, or with one too many."""
    option = said.split(maxsplit=1)[0]
    if "requires argument" in said:
        return f"{option} needs a value."
    return f"{option} takes no value."


def _unknown_option(name: str, option: str, known: list[str], words: list[str]) -> str:
    beginning = [other for other in known if other.startswith(option)]
    if len(beginning) > 1:
        return f"{option} could mean {_either(beginning)}; write more of it."
    near = _nearest(option, known)
    hint = f"Did you mean {near}?" if near else f"`queuectl {f'{name} ' if name else ''}--help` lists the options."
    if near:
        pass
    elif name == "enqueue" and words:
        hint = "If it belongs to the job, put the job into quotes, or -- before it."
    elif not name or name in GROUPS:
        hint = "A command's options stand after the command."
    return f"There is no option {option}{f' for {name}' if name else ''}. {hint}"


def _wrong_words(
    name: str, pattern: docopt.BranchPattern, text: str, names: list[str], words: list[str]
) -> str:
    """What is wrong if all options are known: an argument is missing, or one is too many."""
    places = pattern.flat(docopt.Argument)
    many = bool(pattern.flat(docopt.OneOrMore) and any(m.flat(docopt.Argument) for m in pattern.flat(docopt.OneOrMore)))
    needed = usage_of(text).partition("[options]")[2].strip()
    if not many and len(words) > len(places):
        return f"{words[len(places)]!a} is one argument too many.{_meant(name, words)}"
    if needed.startswith("("):
        needed = needed.replace("[--] ", "")
        alternatives = [each.strip() for each in needed.partition(")")[0].strip("(").split("|")]
        both = words and any(each in names for each in alternatives)
        shown = [f"one or more {each.removesuffix('...')}" if each.endswith("...") else each for each in alternatives]
        return f"Give either {_either(shown)}{', not both' if both else ''}."
    missing = [str(place.name) for place in places][len(words) :]
    return f"`queuectl {name}` needs {_either(missing, 'and')}." if missing else "That was not understood."


def _meant(name: str, words: list[str]) -> str:
    """What somebody may have meant who gave a word to a command that takes none."""
    if name == "list" and all(word in STATES for word in ",".join(words).split(",")):
        return f" Did you mean `queuectl list --state {','.join(words)}`?"
    if name in ("status", "list"):
        return f" `queuectl show {words[0]}` shows one job." if is_id(words[0]) else ""
    return ""


def _either(words: list[str], last: str = "or") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
