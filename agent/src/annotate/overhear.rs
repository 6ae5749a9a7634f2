//! What comes without proof.

use agent_core::engine::Input;

use super::Annotator;
use crate::channels::netconsole::{Heard, HeardLines, Overheard};
use crate::store::{Change, OverheardLines};

impl Annotator {
    pub(super) async fn overhear(&mut self, heard: Heard) {
        let mut change = Change::default();
        match heard {
            Heard::Crash(crash) => {
                let Overheard {
                    node,
                    boot,
                    report,
                    at,
                } = crash;
                let heard = Input::Overheard { node, boot, report };
                let outputs = self.engine.step(at, heard);
                self.collect(outputs, &mut change);
            }
            Heard::Lines(heard) => match self.placed(heard) {
                Ok(lines) => change.overheard.push(lines),
                Err(count) => {
                    let lost = "netconsole_lines_of_no_known_boot";
                    self.metrics.lost(lost, count);
                }
            },
        }
        self.commit(change).await;
    }

    /// Lines with the boot that they are of; their number if nobody can say which.
    fn placed(&self, heard: HeardLines) -> Result<OverheardLines, u64> {
        let HeardLines {
            node,
            boot,
            lines,
            at,
        } = heard;
        let last = lines.last().map(|line| line.mono_ns);
        let printed_ns = last.filter(|ns| *ns > 0);
        let Some(boot) = self.engine.boot_of_text(at, &node, boot, printed_ns) else {
            return Err(lines.len() as u64);
        };
        Ok(OverheardLines {
            node,
            boot,
            at,
            lines,
        })
    }
}
