//! The real binary: exit codes, signals, and a server that answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn testapp(args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testapp"));
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("the binary starts")
}

fn code(mut child: Child) -> Option<i32> {
    child.wait().expect("the child can be waited for").code()
}

fn terminate(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("pids are small"));
    kill(pid, Signal::SIGTERM).expect("the child is there");
}

/// Starts a server and answers the port that it says it has.
fn server(args: &[&str]) -> (Child, u16) {
    let mut child = testapp(&[&["serve", "--port", "0"], args].concat());
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.as_mut().expect("output is piped"));
    output.read_line(&mut line).expect("it says where it serves");
    let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
    (child, port.expect("the line ends with the port"))
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap_or_default();
    answer
}

#[test]
fn exit_codes_are_as_asked_for() {
    for (args, expected) in [
        (&["crash", "--after", "50ms", "--code", "3"][..], 3),
        (&["crash"], 1),
        (&["sleep", "10ms"], 0),
        (&["false"], 1),
        (&["nonsense"], 2),
    ] {
        assert_eq!(code(testapp(args)), Some(expected), "{args:?}");
    }
}

#[test]
fn a_server_ends_gracefully_and_tells_who_it_is() {
    let (child, port) = server(&["--version", "v7"]);
    assert!(get(port, "/hostname").contains("\r\n\r\nHostname : "));
    assert!(get(port, "/version").contains("[App Version] : v7"));
    assert!(get(port, "/clientip").ends_with("127.0.0.1\n"));
    assert!(get(port, "/nowhere").starts_with("HTTP/1.1 404"));
    terminate(&child);
    assert_eq!(code(child), Some(0));
}

#[test]
fn files_are_waited_for_and_shown() {
    let here = tempfile::tempdir().expect("a folder for the test");
    let file = here.path().join("colour");
    let path = file.to_str().expect("the folder's name is text");
    let waiting = testapp(&["until", path, "blue"]);
    std::fs::write(&file, "red").expect("the folder is writable");
    let (shown, port) = server(&[]);
    assert!(get(port, &format!("/files?path={path}")).ends_with("\r\n\r\nred"));
    let folder = here.path().display();
    assert!(get(port, &format!("/files?path={folder}")).ends_with("\r\n\r\ncolour\n"));
    assert!(get(port, "/files?path=/nowhere").starts_with("HTTP/1.1 404"));
    // Outside of a pod there is nobody to ask.
    assert!(get(port, "/whoami").contains("cannot read /var/run/secrets"));
    std::fs::write(&file, "light blue").expect("the folder is writable");
    assert_eq!(code(waiting), Some(0));
    terminate(&shown);
    code(shown);
}

#[test]
fn health_can_be_switched_and_the_process_crashed() {
    let (child, port) = server(&[]);
    assert!(get(port, "/healthz").starts_with("HTTP/1.1 200"));
    get(port, "/status-500");
    assert!(get(port, "/health").starts_with("HTTP/1.1 500"));
    get(port, "/status-200");
    assert!(get(port, "/health").starts_with("HTTP/1.1 200"));
    get(port, "/exit?code=9");
    assert_eq!(code(child), Some(9));
}

#[test]
fn a_server_is_not_ready_before_its_time() {
    let (child, port) = server(&["--ready-after", "1h"]);
    assert!(get(port, "/ready").starts_with("HTTP/1.1 503"));
    get(port, "/crash");
    assert_eq!(code(child), Some(1));
}

#[test]
fn sigterm_is_taken_or_ignored_as_asked_for() {
    let (mut deaf, port) = server(&["--ignore-term"]);
    terminate(&deaf);
    // The answer proves that it went on after the signal.
    assert!(get(port, "/").starts_with("HTTP/1.1 200"));
    deaf.kill().expect("it is there");
    assert_eq!(code(deaf), None, "killed by a signal");
}
