//! A process that measures when it is asked to, line by line, and answers with numbers. It ends when dropped.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A running worker. Between two questions it waits and takes no processor time.
pub(super) struct MeasuringProcess {
    name: String,
    child: Child,
    /// Closed to end the worker.
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
    /// The worker's description of itself.
    pub(super) description: String,
}

impl MeasuringProcess {
    /// Starts a worker and waits until it is ready. Its standard error goes to `logs/NAME.log`.
    ///
    /// # Errors
    /// When the worker does not start.
    pub(super) fn start(name: &str, mut command: Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let stderr = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().with_context(|| format!("start {name}: {command:?}"))?;
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut worker = Self { name: name.into(), child, questions, answers, log, description: String::new() };
        let first = worker.line()?;
        let Some(description) = first.strip_prefix("ready ") else {
            bail!("{name} was to print \"ready\" and its description, but printed {first:?}")
        };
        worker.description = description.into();
        Ok(worker)
    }

    /// Asks a question. Returns the numbers of the answer, at least one.
    ///
    /// # Errors
    /// When the worker ends instead, or its answer is not made of numbers.
    pub(super) fn ask(&mut self, question: &str) -> Result<Vec<f64>> {
        let questions = self.questions.as_mut().expect("open until the worker is dropped");
        // If the worker has ended, its log explains more than the broken pipe; `line` reports it.
        let _broken_pipe = writeln!(questions, "{question}");
        let line = self.line()?;
        let numbers: Vec<f64> = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("{} answered {question:?} with {line:?}", self.name))?;
        if numbers.is_empty() {
            bail!("{} answered {question:?} with an empty line", self.name);
        }
        Ok(numbers)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            bail!("{} ended; its log says:\n{}", self.name, fs::read_to_string(&self.log).unwrap_or_default());
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for MeasuringProcess {
    fn drop(&mut self) {
        drop(self.questions.take());
        // An error says that the worker has ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts a worker with a shell script, and removes its log after `check`.
    fn with(name: &str, script: &str, check: impl FnOnce(Result<MeasuringProcess>)) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let logs = std::env::temp_dir().join(format!("roundhouse-{name}-{}", std::process::id()));
        fs::create_dir_all(&logs).expect("the folder can be made");
        check(MeasuringProcess::start(name, command, &logs));
        fs::remove_dir_all(&logs).expect("the folder can be removed");
    }

    #[test]
    fn a_worker_answers_until_it_ends_and_then_its_log_is_reported() {
        let script = "echo ready for it; read a; echo 1.5 2; read b; echo $b; read c; echo broken >&2";
        with("answers", script, |worker| {
            let mut worker = worker.expect("it starts");
            assert_eq!(worker.description, "for it");
            assert_eq!(worker.ask("time").expect("it answers"), [1.5, 2.0]);
            assert!(worker.ask("words").is_err());
            let error = worker.ask("more").expect_err("it has ended").to_string();
            assert!(error.contains("broken"), "{error}");
        });
    }

    #[test]
    fn a_worker_that_does_not_start_reports_its_log() {
        with("fails", "echo no module >&2", |worker| {
            let error = worker.err().expect("refused").to_string();
            assert!(error.contains("no module"), "{error}");
        });
    }
}
