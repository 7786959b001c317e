//! The command line: subcommands of `testapp`, or names under which it is called.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// The names under which the binary can be called, beside its own.
pub const APPLETS: &[&str] = &[
    "cat", "crash", "echo", "false", "hostname", "pause", "serve", "sleep", "true", "until",
    "whoami",
];

/// Serves, crashes, sleeps and burns on demand.
#[derive(Debug, Parser)]
#[command(name = "testapp", disable_version_flag = true)]
struct Line {
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answers HTTP requests (the default).
    Serve(Serve),
    /// Ends with an error after a while.
    Crash {
        /// How long to live first.
        #[arg(long, default_value = "0s", value_parser = duration)]
        after: Duration,
        /// The exit code.
        #[arg(long, default_value_t = 1)]
        code: u8,
    },
    /// Does nothing for a while.
    Sleep {
        /// How long; `infinity` for ever.
        #[arg(value_parser = span)]
        span: Span,
        /// Goes on when asked to end.
        #[arg(long)]
        ignore_term: bool,
    },
    /// Holds a pod's namespaces: waits, and reaps orphans.
    Pause,
    /// Writes an archive with all images, for `ctr images import` or `docker load`.
    Image {
        /// Where to.
        #[arg(long)]
        out: PathBuf,
        /// The binary to pack; this one if absent.
        #[arg(long)]
        binary: Option<PathBuf>,
    },
    /// Shows files.
    Cat {
        /// Which.
        files: Vec<PathBuf>,
    },
    /// Says something.
    Echo {
        /// What.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Says the host's name.
    Hostname,
    /// Succeeds.
    True,
    /// Fails.
    False,
    /// Waits until a file holds a text.
    Until {
        /// Which file.
        path: PathBuf,
        /// What it is to hold.
        text: String,
    },
    /// Asks the API server for the pod that it runs in.
    Whoami,
}

/// How to serve.
#[derive(Debug, Args)]
pub struct Serve {
    /// The port.
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// What /version says.
    #[arg(long, env = "VERSION", default_value = "v1")]
    pub version: String,
    /// Not healthy before this.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub ready_after: Duration,
    /// How long to take to end when asked to.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub term_delay: Duration,
    /// Goes on when asked to end.
    #[arg(long)]
    pub ignore_term: bool,
    /// Ends by itself after this.
    #[arg(long, value_parser = duration)]
    pub exit_after: Option<Duration>,
    /// The exit code for that.
    #[arg(long, default_value_t = 0)]
    pub code: u8,
}

/// A time, or for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// A time.
    For(Duration),
    /// For ever.
    Ever,
}

impl Command {
    /// Reads a whole command line, program name first.
    pub fn of(words: &[String]) -> Result<Self, clap::Error> {
        let program = words.first().map(String::as_str).unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default();
        let line = if APPLETS.contains(&name) {
            let with_name = ["testapp", name].map(str::to_owned).into_iter();
            Line::try_parse_from(with_name.chain(words.iter().skip(1).cloned()))?
        } else {
            Line::try_parse_from(words)?
        };
        match line.command {
            Some(command) => Ok(command),
            None => Self::of(&["serve".to_owned()]),
        }
    }
}

/// `250ms`, `1.5s`, `2m`, `1h`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let wrong = || format!("`{text}` is no time; write 250ms, 1.5s, 2m or 1h");
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit_s = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * unit_s).map_err(|_| wrong())
}

fn span(text: &str) -> Result<Span, String> {
    if text == "infinity" { Ok(Span::Ever) } else { duration(text).map(Span::For) }
}

/// As `commands.txt` tells it.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: &Duration| time.as_millis();
        match self {
            Command::Serve(serve) => {
                match serve.exit_after {
                    Some(after) => write!(f, "exits {} after {}", serve.code, ms(&after))?,
                    None => write!(f, "serves {}", serve.port)?,
                }
                if serve.ignore_term {
                    return f.write_str(", on SIGTERM stays");
                }
                write!(f, ", on SIGTERM exits 0 after {}", ms(&serve.term_delay))
            }
            Command::Crash { after, code } => {
                write!(f, "exits {code} after {}, on SIGTERM exits 143 after 0", ms(after))
            }
            Command::Sleep { span, ignore_term } => {
                match span {
                    Span::For(time) => write!(f, "exits 0 after {}", ms(time))?,
                    Span::Ever => f.write_str("runs")?,
                }
                f.write_str(if *ignore_term {
                    ", on SIGTERM stays"
                } else {
                    ", on SIGTERM exits 143 after 0"
                })
            }
            Command::Pause => f.write_str("runs, on SIGTERM exits 0 after 0"),
            Command::Until { .. } => f.write_str("runs, on SIGTERM exits 143 after 0"),
            // Where there is no API server to ask.
            Command::False | Command::Whoami => {
                f.write_str("exits 1 after 0, on SIGTERM exits 143 after 0")
            }
            Command::True
            | Command::Hostname
            | Command::Cat { .. }
            | Command::Echo { .. }
            | Command::Image { .. } => f.write_str("exits 0 after 0, on SIGTERM exits 143 after 0"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_do_what_the_table_says() {
        let mut rows = 0;
        for row in include_str!("../commands.txt").lines().filter(|line| !line.starts_with('#')) {
            let (line, expected) = row.split_once(" => ").unwrap();
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            let name = words[0].trim_start_matches("/bin/");
            let is_in_image = name == "/testapp" || APPLETS.contains(&name);
            let read = match Command::of(&words) {
                _ if !is_in_image => "cannot start".to_owned(),
                Ok(command) => command.to_string(),
                Err(error) => {
                    format!("exits {} after 0, on SIGTERM exits 143 after 0", error.exit_code())
                }
            };
            assert_eq!(read, expected, "{line}");
            rows += 1;
        }
        assert!(rows > 20);
    }

    #[test]
    fn times_are_read_with_their_units() {
        for (text, ms) in [("250ms", 250), ("1.5s", 1500), ("3", 3000), ("2m", 120_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert!(duration("soon").is_err());
        assert!(duration("-1s").is_err());
    }
}
