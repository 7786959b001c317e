//! What testapp would do, read from its command line: the staged runtime plays it.
//!
//! `testapp/commands.txt` holds both to the same table, so that one manifest behaves the same on a
//! simulated node and on a real one.

use std::fmt;
use std::time::Duration;

/// testapp's images and what they run.
const IMAGES: &str = include_str!("../../../testapp/images.txt");

/// What a container does on SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnTerm {
    /// Ends with this code after a while.
    Exits(i32, Duration),
    /// Goes on.
    Stays,
}

/// The life of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Script {
    /// The port on which it answers.
    pub(crate) serves: Option<u16>,
    /// How and when it ends by itself.
    pub(crate) exits: Option<(i32, Duration)>,
    /// What it does when asked to end.
    pub(crate) on_term: OnTerm,
}

impl Script {
    const TERMINATED: OnTerm = OnTerm::Exits(143, Duration::ZERO);

    /// Does nothing until it is asked to end.
    pub(crate) const FOR_EVER: Self =
        Self { serves: None, exits: None, on_term: OnTerm::Exits(0, Duration::ZERO) };

    fn exits(code: i32) -> Self {
        Self { serves: None, exits: Some((code, Duration::ZERO)), on_term: Self::TERMINATED }
    }

    /// What this command line does; `None` if there is no such program in the image.
    pub(crate) fn of(command_line: &[String]) -> Option<Self> {
        let (applet, words) = applet(command_line)?;
        let is_testapp = matches!(command_line[0].as_str(), "/testapp" | "testapp");
        Some(match applet {
            "serve" => Self::serve(&words).unwrap_or(Self::exits(2)),
            "crash" => Self::crash(&words).unwrap_or(Self::exits(2)),
            "sleep" => Self::sleep(&words).unwrap_or(Self::exits(2)),
            "until" if words.len() == 2 => {
                Self { serves: None, exits: None, on_term: Self::TERMINATED }
            }
            "until" => Self::exits(2),
            "pause" => Self::FOR_EVER,
            "true" | "echo" | "cat" | "hostname" => Self::exits(0),
            "false" => Self::exits(1),
            // There is no API server that a simulated container could ask.
            "whoami" => Self::exits(1),
            _ if is_testapp => Self::exits(2),
            _ => return None,
        })
    }

    fn serve(words: &[&str]) -> Option<Self> {
        let (mut port, mut exit_after, mut code) = (8080, None, 0);
        let (mut delay, mut ignores) = (Duration::ZERO, false);
        let mut options = Options(words);
        while let Some(option) = options.next() {
            match option {
                "--port" => port = options.value()?.parse().ok()?,
                "--version" => drop(options.value()?),
                "--ready-after" => drop(duration(options.value()?)?),
                "--term-delay" => delay = duration(options.value()?)?,
                "--exit-after" => exit_after = Some(duration(options.value()?)?),
                "--code" => code = options.value()?.parse().ok()?,
                "--ignore-term" => ignores = true,
                _ => return None,
            }
        }
        let on_term = if ignores { OnTerm::Stays } else { OnTerm::Exits(0, delay) };
        Some(Self { serves: Some(port), exits: exit_after.map(|after| (code, after)), on_term })
    }

    fn crash(words: &[&str]) -> Option<Self> {
        let (mut after, mut code) = (Duration::ZERO, 1);
        let mut options = Options(words);
        while let Some(option) = options.next() {
            match option {
                "--after" => after = duration(options.value()?)?,
                "--code" => code = options.value()?.parse().ok()?,
                _ => return None,
            }
        }
        Some(Self { serves: None, exits: Some((code, after)), on_term: Self::TERMINATED })
    }

    fn sleep(words: &[&str]) -> Option<Self> {
        let ignores = words.contains(&"--ignore-term");
        let words: Vec<_> = words.iter().filter(|word| **word != "--ignore-term").collect();
        let [text] = words.as_slice() else { return None };
        let exits = if **text == "infinity" { None } else { Some((0, duration(text)?)) };
        let on_term = if ignores { OnTerm::Stays } else { Self::TERMINATED };
        Some(Self { serves: None, exits, on_term })
    }
}

/// What a command line writes when it starts; `version` is what the environment says, if anything.
pub(crate) fn says_first(command_line: &[String], hostname: &str, version: &str) -> Option<String> {
    let (applet, words) = applet(command_line)?;
    Script::of(command_line)?;
    let mut options = Options(&words);
    match applet {
        "serve" => {
            let (mut port, mut version) = ("8080", if version.is_empty() { "v1" } else { version });
            while let Some(option) = options.next() {
                match option {
                    "--port" => port = options.value()?,
                    "--version" => version = options.value()?,
                    "--ignore-term" => {}
                    _ => drop(options.value()?),
                }
            }
            Some(format!("{hostname} {version} serves on 0.0.0.0:{port}"))
        }
        "crash" => {
            let (mut after, mut code) = (Duration::ZERO, "1");
            while let Some(option) = options.next() {
                match option {
                    "--after" => after = duration(options.value()?)?,
                    _ => code = options.value()?,
                }
            }
            Some(format!("crashing with code {code} in {after:?}"))
        }
        "echo" => Some(words.join(" ")),
        "hostname" => Some(hostname.to_owned()),
        _ => None,
    }
}

/// The file that a command line waits for, and the text that it is to hold.
pub(crate) fn waits_for(command_line: &[String]) -> Option<(String, String)> {
    match applet(command_line)? {
        ("until", words) if words.len() == 2 => Some((words[0].to_owned(), words[1].to_owned())),
        _ => None,
    }
}

/// The files that a command line shows.
pub(crate) fn shows(command_line: &[String]) -> Vec<String> {
    match applet(command_line) {
        Some(("cat", words)) => words.into_iter().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// What a command line writes when it is asked to end.
pub(crate) fn says_on_term(command_line: &[String]) -> Option<String> {
    let (applet, _) = applet(command_line)?;
    let script = Script::of(command_line)?;
    match (script.on_term, applet) {
        (OnTerm::Stays, _) => Some("SIGTERM ignored".to_owned()),
        // What has not understood its options has ended by itself.
        (OnTerm::Exits(_, after), "serve") if script.serves.is_some() => {
            Some(format!("SIGTERM: ending in {after:?}"))
        }
        (OnTerm::Exits(..), _) => None,
    }
}

/// The applet of a command line, and its words.
fn applet(command_line: &[String]) -> Option<(&str, Vec<&str>)> {
    let mut words = command_line.iter().map(String::as_str);
    let program = words.next()?;
    let applet = match program {
        "/testapp" | "testapp" => words.next().unwrap_or("serve"),
        _ => program.strip_prefix("/bin/").unwrap_or(program),
    };
    Some((applet, words.collect()))
}

/// Options, one after the other; `--name value` and `--name=value` mean the same.
struct Options<'w>(&'w [&'w str]);

impl<'w> Options<'w> {
    fn next(&mut self) -> Option<&'w str> {
        let (first, rest) = self.0.split_first()?;
        match first.split_once('=') {
            // The value stays behind as the next word.
            Some((name, _)) => Some(name),
            None => {
                self.0 = rest;
                Some(first)
            }
        }
    }

    fn value(&mut self) -> Option<&'w str> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first.strip_prefix("--").and_then(|o| o.split_once('=')).map_or(first, |(_, v)| v))
    }
}

/// `250ms`, `1.5s`, `2m`, `1h`; a bare number is seconds.
fn duration(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let unit_s = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit_s).ok()
}

/// The images that there are, by name, with the arguments that they run `/testapp` with.
pub(crate) fn images() -> impl Iterator<Item = (&'static str, Vec<String>)> {
    IMAGES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next().expect("a line that is not empty has a word");
        (name, words.map(str::to_owned).collect())
    })
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.exits, self.serves) {
            (Some((code, after)), _) => write!(f, "exits {code} after {}", after.as_millis())?,
            (None, Some(port)) => write!(f, "serves {port}")?,
            (None, None) => f.write_str("runs")?,
        }
        match self.on_term {
            OnTerm::Exits(code, after) => {
                write!(f, ", on SIGTERM exits {code} after {}", after.as_millis())
            }
            OnTerm::Stays => f.write_str(", on SIGTERM stays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_read_as_testapp_reads_them() {
        let table = include_str!("../../../testapp/commands.txt");
        let mut rows = 0;
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let (command_line, expected) = line.split_once(" => ").expect("a table row");
            let words: Vec<_> = command_line.split(' ').map(str::to_owned).collect();
            let read = Script::of(&words).map_or("cannot start".to_owned(), |s| s.to_string());
            assert_eq!(read, expected, "{command_line}");
            rows += 1;
        }
        assert!(rows > 20);
    }

    #[test]
    fn a_line_is_written_at_the_start_and_the_end() {
        let told = |line: &str| {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            let first = says_first(&words, "web-0", "v9").unwrap_or_default();
            (first, says_on_term(&words).unwrap_or_default())
        };
        for (line, first, last) in [
            ("/testapp", "web-0 v9 serves on 0.0.0.0:8080", "SIGTERM: ending in 0ns"),
            (
                "/testapp serve --port=80 --version v2 --term-delay 2s",
                "web-0 v2 serves on 0.0.0.0:80",
                "SIGTERM: ending in 2s",
            ),
            ("/testapp serve --ignore-term", "web-0 v9 serves on 0.0.0.0:8080", "SIGTERM ignored"),
            ("crash --after 1.5s --code 3", "crashing with code 3 in 1.5s", ""),
            ("/bin/echo a b", "a b", ""),
            ("hostname", "web-0", ""),
            ("sleep 5", "", ""),
            ("/testapp serve --nonsense", "", ""),
            ("nope", "", ""),
        ] {
            assert_eq!(told(line), (first.to_owned(), last.to_owned()), "{line}");
        }
    }

    #[test]
    fn options_may_be_written_with_an_equals_sign() {
        let words: Vec<_> =
            ["/testapp", "crash", "--after=2s", "--code=4"].map(String::from).into();
        assert_eq!(
            Script::of(&words).map(|script| script.exits),
            Some(Some((4, Duration::from_secs(2))))
        );
    }

    #[test]
    fn every_image_runs_something_that_starts() {
        for (name, args) in images() {
            let words: Vec<_> = std::iter::once("/testapp".to_owned()).chain(args).collect();
            let script = Script::of(&words).expect("testapp is in the image");
            assert!(script.exits.is_none_or(|(code, _)| code == 0), "{name}");
        }
    }
}
