//! Records what is seen: in memory, and line by line in `timeline.ndjson`.
//!
//! Times never go back: what is noted late keeps its place, and its error bound covers the delay.
//! The clock is tokio's and starts at zero with the run; wall time never enters the timeline.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use shakedown_core::plan::START;
use shakedown_core::sabotage::{Sabotage, Switches};
use shakedown_core::target::ClusterSpec;
use shakedown_core::timeline::{Event, FORMAT, What, unreadable};
use shakedown_core::world::World;
use tokio::time::Instant;

/// What a node may add to the most events: dozens of pods, and the heartbeats of an hour.
const EVENTS_PER_NODE: usize = 4000;

/// Where a run ends that does not end by itself.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most events in one timeline: a lost wake-up under virtual time otherwise fills the disk.
    pub events: usize,
    /// The longest that one scenario may take, on tokio's clock.
    pub scenario: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { events: 1_000_000, scenario: Duration::from_secs(2 * 3600) }
    }
}

impl Limits {
    /// The limits for a cluster of this size: every node beats its heart, and has pods.
    pub fn of(cluster: &ClusterSpec) -> Self {
        let usual = Self::default();
        Self { events: usual.events + EVENTS_PER_NODE * cluster.workers as usize, ..usual }
    }
}

/// Why nothing more can be recorded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be written.
    #[error("cannot write {path}: {why}; hint: is the disk full? `df -h` tells")]
    Write {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// The file cannot be read.
    #[error("cannot read {path}, line {line}: {why}")]
    Read {
        /// The file.
        path: String,
        /// The line, from 1; 0 for the file itself.
        line: usize,
        /// Why.
        why: String,
    },
    /// There are too many events.
    #[error(
        "the timeline has reached its limit of {limit} events; hint: something loops, look at its end"
    )]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

/// Records a run.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    file: Option<(PathBuf, BufWriter<File>)>,
    events: Vec<Event>,
    world: World,
    scenario: String,
    scenario_first: usize,
    scenario_world: World,
    last_us: u64,
    is_full: bool,
    limits: Limits,
    switches: Switches,
    /// How many events came after the scenario's start, for the planted defects.
    since_start: Option<u64>,
}

impl Recorder {
    /// Records into `timeline.ndjson` in this directory, and in memory.
    pub fn create(
        dir: &Path,
        target: &str,
        seed: u64,
        limits: Limits,
    ) -> Result<Self, RecordError> {
        let path = dir.join("timeline.ndjson");
        let file = File::create(&path).map_err(|error| RecordError::Write {
            path: path.display().to_string(),
            why: error.to_string(),
        })?;
        let mut recorder = Self::empty(limits);
        recorder.file = Some((path, BufWriter::new(file)));
        recorder.begin(target, seed)?;
        Ok(recorder)
    }

    /// Records in memory only.
    pub fn memory(target: &str, seed: u64, limits: Limits) -> Self {
        let mut recorder = Self::empty(limits);
        recorder.begin(target, seed).expect("memory takes the first event");
        recorder
    }

    fn empty(limits: Limits) -> Self {
        Self {
            began: Instant::now(),
            file: None,
            events: Vec::new(),
            world: World::new(),
            scenario: String::new(),
            scenario_first: 0,
            scenario_world: World::new(),
            last_us: 0,
            is_full: false,
            limits,
            switches: Switches::default(),
            since_start: None,
        }
    }

    fn begin(&mut self, target: &str, seed: u64) -> Result<(), RecordError> {
        self.now(What::Run { format: FORMAT, target: target.to_string(), seed })
    }

    /// Takes on the planted defects of the scenario that follows.
    pub(crate) fn sabotage(&mut self, switches: Switches) {
        self.switches = switches;
        self.since_start = None;
    }

    /// The run's zero.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Where it ends that does not end by itself.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Microseconds since the run began.
    pub fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_micros() as u64
    }

    /// What is known so far.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Everything recorded so far.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Everything recorded, at the end.
    pub fn into_events(self) -> Vec<Event> {
        self.events
    }

    /// The world as it was before the scenario's first event, and its events so far.
    pub(crate) fn scenario_so_far(&self) -> (World, &[Event]) {
        (self.scenario_world.clone(), &self.events[self.scenario_first..])
    }

    /// Records what happens now.
    pub fn now(&mut self, what: What) -> Result<(), RecordError> {
        self.record(Instant::now(), Duration::ZERO, what)
    }

    /// Records what was seen at a time, and may have happened by `error` earlier. Fails once; what
    /// comes after that stays in memory, so that the run can still end in order.
    pub fn record(&mut self, at: Instant, error: Duration, what: What) -> Result<(), RecordError> {
        let is_mark = matches!(
            what,
            What::Fault { .. }
                | What::Trouble { .. }
                | What::Sealed { .. }
                | What::StepsOver { .. }
                | What::ScenarioEnded { .. }
                | What::Moment { .. }
        );
        if self.events.len() >= self.limits.events && !is_mark {
            let limit = self.limits.events;
            let first = !std::mem::replace(&mut self.is_full, true);
            return if first { Err(RecordError::TooMany { limit }) } else { Ok(()) };
        }
        if let What::ScenarioBegan { id } = &what {
            self.scenario = id.clone();
            self.scenario_first = self.events.len();
            self.scenario_world = self.world.clone();
        }
        let seen_us = self.micros(at);
        let at_us = seen_us.max(self.last_us);
        let mut event = Event {
            seq: self.events.len() as u64,
            at_us,
            error_us: error.as_micros() as u64 + (at_us - seen_us),
            scenario: self.scenario.clone(),
            what,
        };
        self.last_us = at_us;
        self.world.apply(&event);
        if matches!(event.what, What::ScenarioEnded { .. }) {
            self.scenario.clear();
        }
        if self.is_lost(&mut event) {
            return Ok(());
        }
        self.events.push(event);
        self.write_last(is_mark)
    }

    /// Does what the planted defects do to an event; tells whether it is lost. Nothing without them.
    fn is_lost(&mut self, event: &mut Event) -> bool {
        let on = |sabotage| self.switches.on(sabotage);
        if matches!(event.what, What::ScenarioEnded { .. }) && on(Sabotage::RecorderLosesEnd) {
            self.events.truncate(self.events.len().saturating_sub(20));
            event.seq = self.events.len() as u64;
        }
        let is_start = matches!(&event.what, What::Moment { name } if name == START);
        let Some(count) = &mut self.since_start else {
            self.since_start = is_start.then_some(0);
            return false;
        };
        *count += 1;
        let is_fiftieth = count.is_multiple_of(50);
        if on(Sabotage::RecorderShiftsTimes) && matches!(event.what, What::Object { .. }) {
            event.at_us += 3_000_000;
        }
        if on(Sabotage::RecorderReordersEvents)
            && is_fiftieth
            && let Some(last) = self.events.last_mut()
        {
            std::mem::swap(&mut last.what, &mut event.what);
        }
        on(Sabotage::RecorderDropsEvents) && is_fiftieth
    }

    fn write_last(&mut self, is_mark: bool) -> Result<(), RecordError> {
        let (Some((path, file)), Some(event)) = (&mut self.file, self.events.last()) else {
            return Ok(());
        };
        let written = serde_json::to_writer(&mut *file, event)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| if is_mark { file.flush() } else { Ok(()) });
        let Err(error) = written else { return Ok(()) };
        let error = RecordError::Write { path: path.display().to_string(), why: error.to_string() };
        self.file = None;
        Err(error)
    }

    /// Writes out what is still buffered.
    pub fn flush(&mut self) -> Result<(), RecordError> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        file.flush().map_err(|error| RecordError::Write {
            path: path.display().to_string(),
            why: error.to_string(),
        })
    }
}

/// Reads a timeline. A last line that was cut off by a crash is left out.
pub fn read_timeline(path: &Path) -> Result<Vec<Event>, RecordError> {
    let wrong = |line: usize, why: String| RecordError::Read {
        path: path.display().to_string(),
        line,
        why,
    };
    let file = File::open(path).map_err(|error| wrong(0, error.to_string()))?;
    let lines: Vec<String> = BufReader::new(file)
        .lines()
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(0, error.to_string()))?;
    let mut events = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(event) => events.push(event),
            Err(error) if index + 1 == lines.len() && error.is_eof() => break,
            Err(error) => return Err(wrong(index + 1, error.to_string())),
        }
    }
    match events.first() {
        Some(Event { what: What::Run { format, .. }, .. }) => match unreadable(*format) {
            None => Ok(events),
            Some(why) => Err(wrong(1, why)),
        },
        _ => Err(wrong(1, "a timeline begins with the event `run`".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> What {
        What::Note { text: text.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn time_never_goes_back_and_the_error_covers_it() {
        let mut recorder = Recorder::memory("sim", 1, Limits::default());
        let early = Instant::now() + Duration::from_secs(1);
        tokio::time::sleep(Duration::from_secs(3)).await;
        recorder.now(note("a")).unwrap();
        recorder.record(early, Duration::from_millis(5), note("b")).unwrap();
        let last = &recorder.events()[2];
        assert_eq!((last.at_us, last.error_us), (3_000_000, 2_005_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_reads_back_without_its_torn_last_line() {
        let dir = std::env::temp_dir().join(format!("shakedown-recorder-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut recorder = Recorder::create(&dir, "sim", 1, Limits::default()).unwrap();
        recorder.now(note("a")).unwrap();
        recorder.flush().unwrap();
        let path = dir.join("timeline.ndjson");
        let mut text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(read_timeline(&path).unwrap(), recorder.events());
        text.push_str("{\"seq\":2,\"at_us\":");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read_timeline(&path).unwrap().len(), 2);
        std::fs::write(&path, text.replacen("\"seq\":1", "\"seq\":x", 1)).unwrap();
        let error = read_timeline(&path).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        let current = format!("\"format\":{FORMAT}");
        assert!(text.contains(&current));
        for (format, is_read) in [("1", true), ("0", false), ("99", false)] {
            let other = format!("\"format\":{format}");
            std::fs::write(&path, text.replacen(&current, &other, 1)).unwrap();
            let read = read_timeline(&path).map_err(|error| error.to_string());
            assert_eq!(read.is_ok(), is_read, "{read:?}");
            assert!(is_read || read.unwrap_err().contains("program; this one reads 1 to"));
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_is_told_once_and_marks_still_enter() {
        let limits = Limits { events: 2, ..Limits::default() };
        let mut recorder = Recorder::memory("sim", 1, limits);
        recorder.now(note("a")).unwrap();
        assert!(matches!(recorder.now(note("b")), Err(RecordError::TooMany { limit: 2 })));
        recorder.now(note("c")).unwrap();
        recorder.now(What::ScenarioEnded { id: "x".into() }).unwrap();
        assert_eq!(recorder.events().len(), 3);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test(start_paused = true)]
    async fn a_full_disk_is_a_clear_error_and_memory_goes_on() {
        // Every write to /dev/full fails as on a full disk.
        let file = File::options().write(true).open("/dev/full").unwrap();
        let mut recorder = Recorder::memory("sim", 1, Limits::default());
        recorder.file = Some((PathBuf::from("/dev/full"), BufWriter::new(file)));
        let error = recorder.now(What::Moment { name: "a".into() }).unwrap_err().to_string();
        assert!(error.contains("No space left") && error.contains("df -h"), "{error}");
        recorder.now(What::Moment { name: "b".into() }).unwrap();
        assert_eq!(recorder.events().len(), 3);
    }
}
