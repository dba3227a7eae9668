//! The command line of the program: without a command, the replica serves.

use crate::config::Args;
use crate::{accuracy, fetch, quantise};
use clap::{Parser, Subcommand};

/// Classifies images with a residual network, or with any TorchScript classifier.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Program {
    /// Another command than serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The flags of a replica that serves.
    #[command(flatten)]
    pub serve: Args,
}

/// What the program does instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a file of 8-bit weights for --precision int8, calibrated with pictures
    Quantize(quantise::Args),
    /// Print how often each precision gives the same classes as f32, and the right ones
    Accuracy(accuracy::Args),
    /// Download or copy the files of a model into a directory, for --model; an init container runs it
    Fetch(fetch::Args),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    #[test]
    fn the_command_line_is_consistent_and_describes_the_server() {
        Program::command().debug_assert();
        let missing = service::variables::missing(&Program::command());
        assert!(missing.is_empty(), "add {missing:?} to service::variables");
        let help = Program::command().render_long_help().to_string();
        for text in ["Classifies images", "quantize", "accuracy", "fetch", "--min-agreement", "curl -H"] {
            assert!(help.contains(text), "{text}: {help}");
        }
    }

    #[test]
    fn commands_have_their_own_flags() {
        let parse = |line: &str| Program::try_parse_from(line.split(' ')).map_err(|error| error.kind());
        assert!(parse("replica --workers=1").expect("flags of the server").command.is_none());
        let quantise = "replica quantize --calibrate pictures --output int8.safetensors";
        assert!(matches!(parse(quantise).expect("flags of quantize").command, Some(Command::Quantize(_))));
        assert!(matches!(
            parse("replica accuracy --pictures folder").expect("flags of accuracy").command,
            Some(Command::Accuracy(_))
        ));
        for (line, expected) in [
            ("replica quantize --calibrate pictures", ErrorKind::MissingRequiredArgument),
            ("replica quantize --calibrate pictures --output weights.pth", ErrorKind::ValueValidation),
            ("replica fetch --to model", ErrorKind::MissingRequiredArgument),
            ("replica fetch https://host/a", ErrorKind::MissingRequiredArgument),
            ("replica fetch --to model --timeout 0s folder", ErrorKind::ValueValidation),
            ("replica accuracy", ErrorKind::MissingRequiredArgument),
            ("replica accuracy --pictures folder --workers 2", ErrorKind::UnknownArgument),
            ("replica quantise", ErrorKind::InvalidSubcommand),
        ] {
            assert_eq!(parse(line).err(), Some(expected), "{line}");
        }
    }
}
