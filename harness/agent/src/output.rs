//! What the agent says: whole lines, from any thread, with the agent's clock.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shakedown_core::agent::{Answer, Say};
use shakedown_core::timeline::What;

/// Where the agent speaks. Cheap to clone.
#[derive(Clone)]
pub struct Output {
    start: Instant,
    line: Arc<Mutex<Box<dyn Write + Send>>>,
}

impl Output {
    /// Speaks on standard output.
    pub fn to_stdout() -> Self {
        Self::to(Box::new(std::io::stdout()))
    }

    /// Speaks into something.
    pub fn to(writer: Box<dyn Write + Send>) -> Self {
        Self { start: now(), line: Arc::new(Mutex::new(writer)) }
    }

    /// The agent's clock.
    pub fn now_us(&self) -> u64 {
        micros(now().duration_since(self.start))
    }

    /// Answers a request.
    pub fn reply(&self, id: u64, answer: Answer) {
        self.say(&Say::Reply { id, at_us: self.now_us(), answer });
    }

    /// Tells what was seen at `at_us`, or up to `error_us` before.
    pub fn seen(&self, at_us: u64, error_us: u64, what: What) {
        self.say(&Say::Seen { at_us, error_us, what: Box::new(what) });
    }

    /// Says that something is wrong with the agent itself.
    pub fn complain(&self, why: &str) {
        let what = What::Trouble { doing: "running the agent".to_owned(), why: why.to_owned() };
        self.seen(self.now_us(), 0, what);
    }

    fn say(&self, say: &Say) {
        let mut line = serde_json::to_vec(say).expect("plain data can be written as JSON");
        line.push(b'\n');
        let mut writer = self.line.lock().expect("no thread panics while it speaks");
        // Nobody listens any more: the input ends too, and that ends the agent.
        writer.write_all(&line).and_then(|()| writer.flush()).ok();
    }
}

/// The monotonic clock.
pub fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the agent is a real process on a real node")]
    Instant::now()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
