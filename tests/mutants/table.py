"""The mutants: which patch takes a mechanism out, and which test notices."""

from __future__ import annotations

from typing import NamedTuple

_HERE = "tests/mutants/test_mechanisms.py::"


class Mutant(NamedTuple):
    """In `file` (below queuectl/), `old`, which is there exactly once, becomes `new`; then `killer` fails."""

    name: str
    file: str
    old: str
    new: str
    killer: str


MUTANTS = (
    Mutant("enqueue doesn't sync the directory", "spool.py",
           "            self.sync(PENDING)\n        except BaseException:",
           "            pass\n        except BaseException:",
           _HERE + "test_an_accepted_job_is_synced_and_so_is_its_name"),
    Mutant("enqueue doesn't sync the file", "spool.py",
           "            self._sync_files([draft for draft, _ in drafts])\n", "",
           _HERE + "test_an_accepted_job_is_synced_and_so_is_its_name"),
    Mutant("workers share a claim's name", "core/names.py",
           "self.attempts + 1, self.id, worker, n, self.needs)", 'self.attempts + 1, self.id, "anyone", 0, self.needs)',
           _HERE + "test_a_claim_has_one_winner"),
    Mutant("the new record is renamed over the claim", "spool.py",
           "ours = self._move(self._in[PROCESSING] + record.claim.name, self._in[TMP] + record.claim.spent)",
           "ours = self._move(self._in[TMP] + record.name, self._in[PROCESSING] + record.claim.name) and self._move(\n"
           "                    self._in[PROCESSING] + record.claim.name, self._in[TMP] + record.name)",
           _HERE + "test_a_lost_claim_cannot_be_settled"),
    Mutant("a result is published though the claim is gone", "spool.py",
           "Settlement.FENCED if ours else Settlement.REFUSED", "Settlement.FENCED",
           _HERE + "test_a_lost_claim_cannot_be_settled"),
    Mutant("ENOENT is trusted", "disk.py",
           "                if self._is_there(target):\n                    return True\n", "",
           _HERE + "test_a_rename_that_was_done_and_denied_is_seen_through"),
    Mutant("a missing directory is taken for a lost race", "disk.py",
           "                if not self._is_there(source):\n                    return False\n",
           "                return False\n",
           _HERE + "test_a_directory_that_is_gone_takes_no_outcome_with_it"),
    Mutant("inotify doesn't tell of links", "wakeup.py",
           "In.IN_MOVED_TO | In.IN_CREATE |", "In.IN_MOVED_TO |",
           _HERE + "test_a_linked_file_wakes_the_worker"),
    Mutant("a released job gets its old name", "recover.py",
           "record = Record(claim, PENDING, next_stamp(claim.not_before), attempts)",
           "record = Record(claim, PENDING, claim.not_before, attempts)",
           _HERE + "test_a_released_job_gets_a_name_that_never_was"),
    Mutant("a recoverer takes the record that it found", "recover.py",
           "            if settle_now(self._spool, Settlement(record._replace(claim=mine), data)):",
           "            self._spool.remove_temporary(record.name)\n"
           "            if settle_now(self._spool, Settlement(record._replace(claim=mine), data)):",
           _HERE + "test_a_dead_workers_record_stands_until_its_claim_is_gone"),
    Mutant("a record is believed whatever it holds", "spool.py",
           'return data if str(job.body.get("claim")).partition("@")[0] == record.claim.stem else None',
           "return data",
           _HERE + "test_a_record_of_another_attempt_is_not_believed"),
    Mutant("orphans live on while their job goes back", "recover.py",
           '        mark = f"@{owner}."\n', "        return True\n",
           _HERE + "test_orphans_are_dead_before_their_job_goes_back"),
    Mutant("a lease is judged by its process id", "lease.py",
           "alive = _is_locked(fd)", 'alive = os.path.exists(f"/proc/{about.get(\'pid\')}")',
           _HERE + "test_a_live_process_id_is_no_lease"),
    Mutant("a lease that others cannot see is kept", "lease.py",
           "os.fstat(self._fd).st_nlink > 0 and self._is_in_place()", "os.fstat(self._fd).st_nlink > 0",
           _HERE + "test_a_lease_that_others_cannot_see_is_lost"),
    Mutant("a child keeps its worker's lease", "spool.py",
           "                flock(fd, LOCK_EX | LOCK_NB)\n",
           "                flock(fd, LOCK_EX | LOCK_NB)\n                os.set_inheritable(fd, True)\n",
           _HERE + "test_a_child_does_not_hold_its_workers_lease"),
    Mutant("symbolic links are followed", "disk.py",
           "READ = os.O_RDONLY | os.O_NOFOLLOW |", "READ = os.O_RDONLY |",
           _HERE + "test_a_symbolic_link_is_no_job"),
    Mutant("hard links are jobs", "disk.py",
           "    if found.st_nlink != 1:\n        raise BadJob", "    if False:\n        raise BadJob",
           _HERE + "test_a_file_with_two_names_is_no_job"),
    Mutant("a member may be given twice", "core/job.py",
           "json.JSONDecoder(object_pairs_hook=_object,", "json.JSONDecoder(",
           _HERE + "test_a_member_that_is_given_twice_is_refused"),
    Mutant("an id may end in a newline", "core/names.py",
           "re.compile(pattern, re.ASCII).fullmatch", 're.compile(pattern + "$", re.ASCII).match',
           _HERE + "test_an_id_is_only_an_id_from_end_to_end"),
    Mutant("an id may be taken twice", "spool.py",
           "                    raise IdTaken(job_id) from None\n", "                    return\n",
           _HERE + "test_an_id_is_accepted_once"),
    Mutant("SIGTERM is the last word", "runner.py",
           "if attempt.kill_at is not None and now >= attempt.kill_at:", "if False:",
           _HERE + "test_a_job_that_ignores_sigterm_is_killed"),
    Mutant("a repeated requeue is believed", "recover.py",
           "        if self._put_back(mine, now):\n            return\n", "",
           _HERE + "test_an_old_requeue_that_is_repeated_requeues_nothing"),
    Mutant("logs are not looked at", "logsize.py",
           "            if size > bound:\n", "            if False:\n",
           _HERE + "test_a_log_is_cut_while_its_job_runs"),
    Mutant("unknown claims of one's own are kept", "lookout.py",
           "                unknown.append(claim)\n", "                pass\n",
           _HERE + "test_a_claim_that_its_worker_does_not_know_of_is_given_back"),
    Mutant("a worker takes what needs a label that it hasn't got", "core/window.py",
           "if entry.name in self._known or (entry.needs and not self.may_take(entry.needs)):",
           "if entry.name in self._known:",
           _HERE + "test_a_worker_leaves_alone_what_it_has_no_label_for"),
    Mutant("a retry forgets its needs", "core/names.py",
           "self.claim.id, self.claim.needs).name", "self.claim.id).name",
           _HERE + "test_a_job_that_is_given_back_keeps_its_needs"),
    Mutant("a name that hides what is needed is believed", "spool.py",
           "if job.needs and not is_met(", "if False and not is_met(",
           _HERE + "test_a_claim_whose_name_hides_its_needs_is_no_job"),
    Mutant("a spool is made wherever", "tree.py",
           "            _check_names(root, fs)\n", "",
           _HERE + "test_no_spool_is_made_where_names_are_cut"),
)  # fmt: skip
