//! QEMU's monitor: one JSON object a line, both ways.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// A connected monitor.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Connects and leaves the greeting behind.
    pub fn connect(path: &Path, deadline: Instant) -> Result<Self> {
        let stream = connect(path, deadline)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut qmp = Self {
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
        };
        qmp.line()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and gives what it returns; events in between are left out.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.writer, "{request}")?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Asks again until `field` of what `command` returns is `wanted`.
    pub fn wait_for(
        &mut self,
        command: &str,
        field: &str,
        wanted: &str,
        deadline: Instant,
    ) -> Result<()> {
        loop {
            let value = self.execute(command, &json!({}))?;
            let found = value.get(field).and_then(Value::as_str).unwrap_or_default();
            if found == wanted {
                return Ok(());
            }
            if found == "failed" || Instant::now() > deadline {
                bail!("{command} says {found:?}, not {wanted:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU closed its monitor");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

/// Connects to a socket that QEMU is about to make.
pub fn connect(path: &Path, deadline: Instant) -> Result<UnixStream> {
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => {
                return Err(error).with_context(|| format!("QEMU did not open {}", path.display()));
            }
        }
    }
}
