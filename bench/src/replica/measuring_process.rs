//! A process that reads questions line by line, measures, and answers each with a line of numbers.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A running process, which is killed when this value is dropped. Between two questions it uses no processor time.
pub(super) struct MeasuringProcess {
    name: String,
    child: Child,
    /// The process's standard input, which is closed when this value is dropped.
    questions: Option<ChildStdin>,
    /// The process's standard output.
    answers: BufReader<ChildStdout>,
    log: PathBuf,
    /// The description of the engine that the process prints when it is ready.
    pub(super) description: String,
}

impl MeasuringProcess {
    /// Starts the process and waits until it is ready. Its standard error goes to `NAME.log` in `logs`.
    ///
    /// # Errors
    /// If the process does not start.
    pub(super) fn start(name: &str, mut command: Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let stderr = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().with_context(|| format!("start {name}: {command:?}"))?;
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut process = Self { name: name.into(), child, questions, answers, log, description: String::new() };
        let first = process.line()?;
        let Some(description) = first.strip_prefix("ready ") else {
            bail!(
                "{name} must print \"ready\" and a description first, but printed {first:?}; see {}",
                process.log.display()
            )
        };
        process.description = description.into();
        Ok(process)
    }

    /// Asks a question. Returns the numbers of the answer, of which there is at least one.
    ///
    /// # Errors
    /// If the process ends without an answer, or its answer is not a line of numbers.
    pub(super) fn ask(&mut self, question: &str) -> Result<Vec<f64>> {
        let questions = self.questions.as_mut().expect("standard input stays open until the process is dropped");
        // If the process has ended, this fails. `line` then returns an error with the log, which explains more.
        let _broken_pipe = writeln!(questions, "{question}");
        let line = self.line()?;
        let numbers: Vec<f64> =
            line.split_whitespace().map(str::parse).collect::<Result<_, _>>().with_context(|| {
                format!("{} must answer {question:?} with numbers, but printed {line:?}", self.name)
            })?;
        if numbers.is_empty() {
            bail!("{} answered {question:?} with an empty line", self.name);
        }
        Ok(numbers)
    }

    /// The next line of the process's standard output.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).with_context(|| format!("read the standard output of {}", self.name))?;
        if line.is_empty() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            bail!("{} ended without an answer; its log {} is:\n{log}", self.name, self.log.display());
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for MeasuringProcess {
    fn drop(&mut self) {
        drop(self.questions.take());
        // An error means that the process has ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts a process with a shell script, and passes it to `check`. Removes its log afterwards.
    fn with(name: &str, script: &str, check: impl FnOnce(Result<MeasuringProcess>)) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let logs = std::env::temp_dir().join(format!("roundhouse-{name}-{}", std::process::id()));
        fs::create_dir_all(&logs).expect("the folder can be made");
        check(MeasuringProcess::start(name, command, &logs));
        fs::remove_dir_all(&logs).expect("the folder can be removed");
    }

    #[test]
    fn after_a_process_has_ended_asking_it_fails_with_its_log() {
        let script = "echo ready for it; read a; echo 1.5 2; read b; echo $b; read c; echo broken >&2";
        with("answers", script, |process| {
            let mut process = process.expect("the process starts");
            assert_eq!(process.description, "for it");
            assert_eq!(process.ask("time").expect("the process answers"), [1.5, 2.0]);
            assert!(process.ask("words").is_err());
            let error = process.ask("more").expect_err("the process has ended").to_string();
            assert!(error.contains("broken"), "{error}");
        });
    }

    #[test]
    fn starting_a_process_that_ends_at_once_fails_with_its_log() {
        with("fails", "echo no module >&2", |process| {
            let error = process.err().expect("the process ends").to_string();
            assert!(error.contains("no module"), "{error}");
        });
    }
}
