//! The bugs: who must find each and by which law, and what is right and what is planted in its place.

use super::{Bug, Finder, assert_is_found};

/// One test for each bug, and the list of all.
macro_rules! planted {
    ($($name:ident { $finder:ident, $law:literal, $file:literal, $good:literal => $bad:literal })+) => {
        /// Every bug, in the order in which `docs/guarantees.md` lists them.
        pub const BUGS: &[Bug] = &[$(Bug {
            name: stringify!($name),
            finder: Finder::$finder,
            law: $law,
            file: $file,
            good: $good,
            bad: $bad,
        }),+];

        $(
            #[test]
            #[ignore = "builds the workspace once more; .ci/run asks for it"]
            fn $name() {
                assert_is_found(stringify!($name));
            }
        )+
    };
}

planted! {
    a_proof_takes_an_end_with_it_that_is_newer {
        Properties, "nothing is lost, doubled or out of order", "core/src/outbox.rs",
        "entry.serial <= serial)"
        => "entry.serial <= serial || entry.is_end)"
    }
    the_first_unproven_message_is_not_sent_again {
        Properties, "nothing is lost, doubled or out of order", "core/src/worker/connection.rs",
        "self.outbox.messages().map("
        => "self.outbox.messages().skip(1).map("
    }
    a_result_is_sent_before_its_claim {
        Properties, "nothing is lost, doubled or out of order", "core/src/outbox.rs",
        "-> impl Iterator<Item = &Entry> {\n        self.entries.iter()\n"
        => "-> impl Iterator<Item = &Entry> {\n        self.entries.iter().rev()\n"
    }
    an_old_end_outlives_the_assignment_of_a_new_execution {
        Properties, "nothing is lost, doubled or out of order", "core/src/worker.rs",
        "            self.outbox.forget(task_id);\n"
        => ""
    }
    a_pong_is_accepted_for_a_ping_that_was_not_sent {
        Properties, "nothing is lost, doubled or out of order", "core/src/outbox.rs",
        "if !self.awaiting || serial != self.pinged {"
        => "if serial > self.pinged {"
    }
    no_ping_asks_for_the_proof_of_an_end {
        Properties, "a Ping asks for the proof", "core/src/outbox.rs",
        "self.end_unpinged |= entry.is_end;"
        => ""
    }
    an_active_task_that_is_assigned_again_is_started_again {
        Properties, "no task runs twice", "core/src/worker.rs",
        "if self.answer_known(now, task_id, Of::Execution(assignment.execution_id()), assignment.title()) {"
        => "let is_active = self.tasks.get(task_id).is_some_and(|task| task.execution_id.as_deref() == assignment.execution_id());\n        if !is_active && self.answer_known(now, task_id, Of::Execution(assignment.execution_id()), assignment.title()) {"
    }
    a_task_is_started_before_its_claim {
        Properties, "a task is claimed before it starts", "core/src/worker/tasks.rs",
        "        self.post_claim(now, &task_id, spec.execution_id.as_deref());\n"
        => ""
    }
    capacity_is_off_by_one {
        Properties, "never more at once than the limit", "core/src/worker.rs",
        "self.tasks.len() >= limit"
        => "self.tasks.len() > limit"
    }
    a_task_is_claimed_after_sigterm {
        Properties, "after a signal nothing is claimed", "core/src/worker.rs",
        "if self.phase != Phase::Running {"
        => "if self.phase == Phase::Gone {"
    }
    a_cancelled_task_keeps_its_slot {
        Properties, "a slot is free as soon as its task has ended", "core/src/worker/tasks.rs",
        "        if let Some(failure) = &end.failure {\n"
        => "        if end.result == TaskResult::Cancelled && self.phase == Phase::Running {\n            self.tasks.insert(task_id.into(), Task::new(now, RunId(0), None));\n        }\n        if let Some(failure) = &end.failure {\n"
    }
    a_claim_that_is_repeated_is_counted_again {
        Properties, "active = claimed - completed", "core/src/worker.rs",
        "    fn claim_again(&mut self, now: Instant, task_id: &str, execution_id: Option<&str>, is_handed_out: bool) {\n"
        => "    fn claim_again(&mut self, now: Instant, task_id: &str, execution_id: Option<&str>, is_handed_out: bool) {\n        self.metric(MetricEvent::TaskClaimed);\n"
    }
    a_stop_while_it_is_cleaned_up_after_changes_how_a_task_ended {
        Properties, "nothing is lost, doubled or out of order", "core/src/worker/task.rs",
        "        if self.end.is_some() {\n            return None;\n        }\n"
        => ""
    }
    a_worker_that_is_not_ready_claims_all_the_same {
        Properties, "nothing is lost, doubled or out of order", "core/src/worker.rs",
        "} else if !self.is_ready() {"
        => "} else if false {"
    }
    a_task_is_started_before_its_claim_is_on_record {
        Restarts, "a claim is safe before its task starts", "core/src/worker/journal.rs",
        "        if !self.is_on {\n            return Some(step);\n        }\n"
        => "        if matches!(step, Step::Start { .. }) || !self.is_on {\n            return Some(step);\n        }\n"
    }
    an_end_that_was_told_is_forgotten_with_the_worker {
        Restarts, "a claimed task is never started again", "core/src/worker/restored.rs",
        "            self.outbox.remember(told);\n"
        => "            drop(told);\n"
    }
    a_cancellation_is_lost_on_a_task_that_shutdown_stops {
        Properties, "nothing is lost, doubled or out of order", "core/src/worker/task.rs",
        "            Some(stop) if cause == StopCause::User => stop.cause = cause,\n"
        => ""
    }
    a_task_is_asked_to_stop_twice {
        Properties, "stops a task once", "core/src/worker/task.rs",
        "Some(stop) if can_stop => !core::mem::replace(&mut stop.is_given, true),"
        => "Some(stop) if can_stop => core::mem::replace(&mut stop.is_given, true) || true,"
    }
    the_timer_is_not_set_again_after_a_ping {
        Properties, "the next timer lies in the future", "core/src/worker/connection.rs",
        "session.next_ping = now.plus(PING_INTERVAL);"
        => ""
    }
    a_write_that_hangs_is_noticed_late {
        Properties, "the next timer is the next thing due", "core/src/worker/session.rs",
        "self.write_limit.map_or(silence, |limit| limit.min(silence)).min(self.next_ping)"
        => "silence.min(self.next_ping)"
    }
    the_backoff_has_no_jitter {
        Properties, "a fleet does not come back in lockstep", "core/src/backoff.rs",
        "Duration::from_nanos(u64::try_from(drawn).unwrap_or(u64::MAX))"
        => "{ let _ = drawn; most }"
    }
    a_good_connection_does_not_reset_the_backoff {
        Properties, "after a good connection the next dial is within 500 ms", "core/src/worker/connection.rs",
        "if self.is_fruitless { self.backoff.next() } else { self.backoff.soon() }"
        => "self.backoff.next()"
    }
    every_connection_resets_the_backoff {
        Properties, "the wait before a dial is 50 to 100 % of its step", "core/src/worker/connection.rs",
        "if self.is_fruitless { self.backoff.next() } else { self.backoff.soon() }"
        => "self.backoff.soon()"
    }
    a_garbled_repeat_ends_a_run_a_second_time {
        Properties, "nothing is lost, doubled or out of order", "core/src/worker.rs",
        "            Self::Unknown => true,"
        => "            Self::Unknown => false,"
    }
    a_write_that_goes_on_is_taken_for_one_that_hangs {
        Properties, "the next timer is the next thing due", "core/src/worker/connection.rs",
        "            *limit = now.plus(WRITE_LIMIT);"
        => "            let _ = limit;"
    }
    a_drain_never_ends {
        Properties, "the next timer lies in the future", "core/src/worker/shutdown.rs",
        "        if let Phase::Draining(until) = self.phase\n            && now >= until\n"
        => "        if let Phase::Draining(until) = self.phase\n            && now >= until\n            && self.tasks.is_empty()\n"
    }
    the_worker_waits_for_a_proof_for_ever {
        Properties, "the next timer lies in the future", "core/src/worker/shutdown.rs",
        "&& (is_over && self.outbox.is_empty() || now >= until)"
        => "&& is_over && self.outbox.is_empty()"
    }
    a_dial_is_counted_after_the_exit {
        Properties, "nothing comes after the exit", "core/src/worker/connection.rs",
        "        if self.phase == Phase::Gone {\n            return;\n        }\n        match &mut self.connection {"
        => "        match &mut self.connection {"
    }
    the_end_of_a_task_is_lost_when_the_channel_is_busy {
        Simulator, "waits to be begun", "worker/src/run.rs",
        "            let _ = events.try_send(Event::Ended { task_id, run, cleanup });"
        => "            if events.len() < 2 {\n                let _ = events.try_send(Event::Ended { task_id, run, cleanup });\n            }"
    }
    a_request_to_stop_does_not_reach_its_task {
        Simulator, "did not end within", "worker/src/run.rs",
        "self.tasks.get(&task_id).filter(|running| running.run == run)"
        => "self.tasks.get(&task_id).filter(|running| running.run != run)"
    }
    processes_are_not_killed_when_their_task_is_over {
        Simulator, "processes are alive after the worker left", "worker/backends/direct/src/ending.rs",
        "            tree.kill();\n"
        => ""
    }
    a_workspace_is_left_behind {
        Simulator, "are left of tasks that have ended", "worker/backends/direct/src/ending.rs",
        "} else if own.remove_if_empty(files) {"
        => "} else if true {"
    }
    a_timer_is_later_than_the_next_thing_due {
        Simulator, "dialled after", "worker/src/run.rs",
        "self.timer.take().filter(|timer| timer.at <= at)"
        => "self.timer.take()"
    }
    failures_of_tasks_are_not_counted {
        Simulator, "and the log tells", "worker/src/run.rs",
        "            Output::Metric(event) => self.recorder.record(event),"
        => "            Output::Metric(oz_worker_core::metrics::MetricEvent::TaskFailure { .. }) => {}\n            Output::Metric(event) => self.recorder.record(event),"
    }
    a_task_is_over_only_when_its_teardown_is {
        Simulator, "exited 0, and it says", "worker/backends/direct/src/lib.rs",
        "            report.finished(self.follow(first, &spec, &place, &mut steps).await);
        });
        let followed = followed.catch_unwind().await;
        let mut failures = Vec::new();
        let torn_down = AssertUnwindSafe(async {
            if let Some(script) = &self.job.settings.teardown_command
                && !stop.is_abandoned()
            {
                failures.extend(tear_down(self.job.script(script, &spec, &place), &mut steps).await);
            }
        });
        let torn_down = torn_down.catch_unwind().await;
"
        => "            self.follow(first, &spec, &place, &mut steps).await
        });
        let followed = followed.catch_unwind().await;
        let mut failures = Vec::new();
        let torn_down = AssertUnwindSafe(async {
            if let Some(script) = &self.job.settings.teardown_command
                && !stop.is_abandoned()
            {
                failures.extend(tear_down(self.job.script(script, &spec, &place), &mut steps).await);
            }
        });
        let torn_down = torn_down.catch_unwind().await;
        report.finished(match &followed {
            Ok(outcome) if !stop.is_asked() => outcome.clone(),
            _ => Outcome::Stopped,
        });
        let followed = followed.map(drop);
"
    }
    a_dial_waits_behind_removals {
        Simulator, "was not answered within", "worker/src/link/dial.rs",
        "runtime.unblock(Lane::Dial, "
        => "runtime.unblock(Lane::Remove, "
    }
    a_task_that_cannot_begin_hears_no_cancellation {
        Simulator, "did not end within", "worker/backends/direct/src/lib.rs",
        "machine::begun(&self.runtime, begin, stop.asked())"
        => "machine::begun(&self.runtime, begin, std::future::pending())"
    }
    frames_that_wait_are_sent_in_the_wrong_order {
        Simulator, "ended without having been claimed", "worker/src/link.rs",
        "        self.waiting.push_back(message);"
        => "        self.waiting.push_front(message);"
    }
    a_volume_is_whole_although_its_archive_broke_off {
        Simulator, "which is not whole", "worker/backends/docker/src/filling.rs",
        "        self.engine.upload(&path, archive).await?;"
        => "        let _ = self.engine.upload(&path, archive).await;"
    }
    a_volume_that_was_removed_meanwhile_is_used {
        Simulator, "which is not whole", "worker/backends/docker/src/run.rs",
        "self.sidecars.are_whole(sidecars).await"
        => "self.sidecars.are_whole(&[]).await"
    }
    anonymous_volumes_outlive_their_container {
        Simulator, "anonymous volume", "worker/backends/docker/src/calls.rs",
        "{}?force=1&v=1"
        => "{}?force=1"
    }
    a_container_that_could_not_be_removed_stays {
        Simulator, "never comes to rest", "worker/backends/docker/src/removal.rs",
        "        remove_later(Arc::clone(engine), id.to_owned());\n"
        => ""
    }
    an_ended_container_goes_before_the_server_has_heard {
        Simulator, "is lost with its worker", "worker/backends/docker/src/ending.rs",
        "if let Some(ended) = open.end(ended) {"
        => "drop(open);\n        {"
    }
    an_ended_container_stays_when_the_server_has_heard {
        Simulator, "are left on the engine", "worker/backends/docker/src/lib.rs",
        "own.let_go(ended).await"
        => "drop((own, ended))"
    }
    a_wait_that_breaks_is_taken_for_an_end {
        Simulator, "is told to have ended by success", "worker/backends/docker/src/wait.rs",
        "if let Ok(Some(0)) = waited {"
        => "if !matches!(waited, Ok(Some(1..))) {"
    }
    every_137_is_taken_for_a_lack_of_memory {
        Simulator, "is told to have ended by container_oom", "worker/backends/docker/src/state.rs",
        "_ if is_oom => ("
        => "_ if is_oom || exit_code == 137 => ("
    }
    a_container_that_never_ran_is_followed {
        Simulator, "is told to have ended by success", "worker/backends/docker/src/removal.rs",
        "Some(Seen::Created) => {}"
        => "Some(Seen::Created) => return false,"
    }
    what_a_dead_worker_left_is_not_taken_up {
        Simulator, "never comes to rest", "worker/backends/docker/src/earlier.rs",
        "let is_dead = own.is_dead(engine, instance).await;"
        => "let is_dead = !own.is_dead(engine, instance).await;"
    }
    a_strangers_container_with_a_name_of_ours_is_removed {
        Simulator, "which is nobody's", "worker/backends/docker/src/filling.rs",
        "let Some(instance) = found.instance() else { return Ok(Lock::Foreign) };"
        => "let instance = found.instance().unwrap_or(self.own.text());"
    }
    a_strangers_volume_is_filled_anew {
        Simulator, "which is somebody else's", "worker/backends/docker/src/volumes.rs",
        "Ok(found) if !found.is_ours() => return Ok(false),"
        => "Ok(found) if found.labels.is_none() => return Ok(false),"
    }
    a_container_is_killed_at_once {
        Simulator, "is killed without having been asked to end", "worker/backends/docker/src/ending.rs",
        "kill(\"SIGTERM\").await;"
        => "kill(\"SIGKILL\").await;"
    }
    a_deleted_job_is_taken_for_a_success {
        Cluster, "is told to have ended by success", "worker/backends/kubernetes/src/verdict/ends.rs",
        "Some(self.fail(FailureReason::JobWatch, &format!(\"somebody deleted the {what} before the task ran\"), true))"
        => "Some(completed(None))"
    }
    every_137_in_a_pod_is_taken_for_a_lack_of_memory {
        Cluster, "is told to have ended by container_oom", "worker/backends/kubernetes/src/verdict/ends.rs",
        "ended.reason == \"OOMKilled\")"
        => "ended.reason == \"OOMKilled\" || ended.exit_code == 137)"
    }
    the_first_container_of_a_pod_is_taken_for_the_tasks {
        Cluster, "is told to have ended by", "worker/backends/kubernetes/src/objects.rs",
        "self.status.container_statuses.iter().find(|container| container.name == name)"
        => "self.status.container_statuses.iter().find(|container| name != container.image)"
    }
    a_pod_is_given_up_for_what_was_seen_of_it_last {
        Cluster, "is told to have ended by", "worker/backends/kubernetes/src/verdict.rs",
        "if gives_up && let Some(look) = self.look_first() {"
        => "if gives_up && let Some(look) = self.look_first().filter(|_| false) {"
    }
    events_are_asked_for_again_and_again {
        Cluster, "requests", "worker/backends/kubernetes/src/verdict.rs",
        "self.asked.insert(occasion).then_some(Next::Ask(uid))"
        => "{\n            self.asked.insert(occasion);\n            Some(Next::Ask(uid))\n        }"
    }
    the_rest_of_a_list_that_comes_in_pages_is_not_asked_for {
        Cluster, "is told to have ended by", "worker/backends/kubernetes/src/watch.rs",
        "if let Some(token) = metadata.next.filter(|token| !token.is_empty()) {"
        => "if let Some(token) = metadata.next.filter(|token| token.is_empty()) {"
    }
    lists_follow_each_other_at_once {
        Cluster, "lists of", "worker/backends/kubernetes/src/watch.rs",
        "(*at).max(self.last_list.map_or(*at, |last| last.plus(LIST_INTERVAL)))"
        => "*at"
    }
    a_job_whose_creation_was_not_answered_is_made_again {
        Cluster, "has a second Job", "worker/backends/kubernetes/src/creation.rs",
        "Standing::Ours if self.is_over(&there, of, open.is_some()) => self.clear(&there).await?,"
        => "Standing::Ours if open.is_some() => break,\n                        Standing::Ours if self.is_over(&there, of, open.is_some()) => self.clear(&there).await?,"
    }
    a_strangers_job_with_a_name_of_ours_is_deleted {
        Cluster, "which is somebody else's", "worker/backends/kubernetes/src/creation.rs",
        "Standing::Foreign => return Err(format!(\"there is a Job {name}, and it is not ours\")),"
        => "Standing::Foreign => self.clear(&there).await?,"
    }
    a_creation_that_fails_is_not_tried_again {
        Cluster, "is told to have ended by job_create", "worker/backends/kubernetes/src/error.rs",
        "if now.since(self.begun) >= patience {"
        => "if now.since(self.begun) >= patience / 100 {"
    }
    the_job_of_a_cancelled_task_stays {
        Cluster, "cancelled", "worker/backends/kubernetes/src/run.rs",
        "                    return self.delete_surely(&created).await;"
        => "                    return Vec::new();"
    }
    a_job_that_is_created_after_its_task_was_cancelled_stays {
        Cluster, "cancelled", "worker/backends/kubernetes/src/creation.rs",
        "                own.delete_surely(&created).await;\n"
        => "                let _ = &created;\n"
    }
    a_jobs_deletion_leaves_its_pod {
        Cluster, "is deleted without its Pod", "worker/backends/kubernetes/src/begin.rs",
        "\"propagationPolicy\": \"Background\""
        => "\"propagationPolicy\": \"Orphan\""
    }
    the_job_of_a_dead_worker_is_not_taken_up {
        Cluster, "whose end nobody tells", "worker/backends/kubernetes/src/adoption.rs",
        "&& !instance.is_empty() && !is_ours;"
        => "&& !instance.is_empty() && is_ours;"
    }
    two_workers_take_up_one_job {
        Cluster, "which a living one has", "worker/backends/kubernetes/src/adoption.rs",
        "\"uid\": job.metadata.uid, \"resourceVersion\": version, \"annotations\""
        => "\"uid\": job.metadata.uid, \"annotations\""
    }
    the_job_of_a_living_worker_is_taken_up {
        Cluster, "which a living one has", "worker/backends/kubernetes/src/adoption.rs",
        "if gone.get(&instance) == Some(&true) {"
        => "if gone.contains_key(&instance) {"
    }
}
