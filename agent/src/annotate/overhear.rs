//! What comes without proof.

use agent_core::engine::Input;

use super::Annotator;
use crate::channels::netconsole::Overheard;
use crate::store::Change;

impl Annotator {
    pub(super) async fn overhear(&mut self, heard: Overheard) {
        let mut change = Change::default();
        let Overheard {
            node,
            boot,
            report,
            at,
        } = heard;
        let heard = Input::Overheard { node, boot, report };
        let outputs = self.engine.step(at, heard);
        self.collect(outputs, &mut change);
        self.commit(change).await;
    }
}
