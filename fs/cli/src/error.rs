//! Errors for people: what went wrong, what to do next, and the exit code.

use crate::output;
use serde::{Deserialize, Serialize};
use std::process::ExitCode;

/// Why a command failed, in words for the person who typed it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

/// Result of a command.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// Something failed: exit code 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: 1 }
    }

    /// Something failed elsewhere, with what was said to do next.
    pub(crate) fn with(message: String, hint: Option<String>) -> Self {
        Self { message, hint, code: 1 }
    }

    /// The command was used wrongly: exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: 2 }
    }

    /// Nothing is to be said: whoever reads the output has seen enough, or the person interrupted it. Exit code as if a signal
    /// with this number had ended the process.
    pub(crate) fn signalled(number: u8) -> Self {
        Self { message: String::new(), hint: None, code: 128 + number }
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The message without the hint.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What to do next.
    pub(crate) fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Prints to standard error and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            output::say(format_args!("strewn: {}", self.message));
        }
        if let Some(hint) = &self.hint {
            output::say(format_args!("hint: {hint}"));
        }
        self.exit_code()
    }

    /// How the process ends.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

/// What came of several things of which each is done whatever became of the others.
#[derive(Debug, Default)]
pub(crate) struct Each {
    /// The newest failure; those before it have been reported.
    failure: Option<Failure>,
}

impl Each {
    /// Notes what came of one.
    pub(crate) fn note(&mut self, outcome: Outcome) {
        if let Err(failure) = outcome
            && let Some(before) = self.failure.replace(failure)
        {
            before.report();
        }
    }

    /// What came of all: the last failure, if there was one.
    pub(crate) fn outcome(self) -> Outcome {
        self.failure.map_or(Ok(()), Err)
    }
}

/// Says what was being done when an error came up.
pub(crate) trait Context<T> {
    /// Prefixes the error with `what`.
    fn context(self, what: impl std::fmt::Display) -> Outcome<T>;
}

impl<T, E: std::error::Error> Context<T> for Result<T, E> {
    fn context(self, what: impl std::fmt::Display) -> Outcome<T> {
        self.map_err(|error| Failure::new(format!("{what}: {}", chain(&error))))
    }
}

/// An error and its causes on one line, without repeating what a message already says of its cause.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
