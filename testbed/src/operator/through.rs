//! Programs that reach kube-apiserver through a fault layer, and controllers beside the first.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Operator, PATIENCE, ready, start_again};
use crate::process::{Process, Recipe};
use crate::proxy::Proxy;

const KUBECONFIG: &str = "KUBECONFIG";

impl Operator {
    /// Starts the controller again, now with the proxy between it and kube-apiserver, and waits until it is ready.
    pub async fn lead_controller_through(&mut self, proxy: &Proxy) -> Result<()> {
        lead_through(&mut self.controller, &self.controller_health, proxy).await
    }

    /// Starts the apiserver again, on the same port, now with the proxy between it and kube-apiserver, and waits until
    /// it is ready.
    pub async fn lead_apiserver_through(&mut self, proxy: &Proxy) -> Result<()> {
        lead_through(&mut self.apiserver, &self.apiserver_health, proxy).await
    }

    /// Starts a controller with the flags of the first beside it, through a proxy where one is given, and waits until
    /// it is ready.
    pub async fn another_controller(&self, name: &str, proxy: Option<&Proxy>) -> Result<Process> {
        let first = self.controller.recipe();
        let health = self
            .controller_health
            .with_file_name(format!("{name}-health.address"));
        let of_the_first = format!("--health-address-file={}", self.controller_health.display());
        let mut recipe = first.clone();
        recipe.name = format!("operator-{name}");
        recipe.log = first.log.with_file_name(format!("operator-{name}.log"));
        for arg in &mut recipe.args {
            if *arg == *of_the_first {
                *arg = format!("--health-address-file={}", health.display()).into();
            }
        }
        if let Some(proxy) = proxy {
            redirect(&mut recipe, proxy)?;
        }
        let mut another = recipe.spawn()?;
        ready(&mut another, &health).await?;
        Ok(another)
    }
}

async fn lead_through(process: &mut Process, health: &Path, proxy: &Proxy) -> Result<()> {
    // In good order: a lease that is given back need not be waited for.
    process.stop(PATIENCE).await?;
    redirect(process.recipe_mut(), proxy)?;
    start_again(process, health).await
}

fn redirect(recipe: &mut Recipe, proxy: &Proxy) -> Result<()> {
    let kubeconfig = recipe.env.iter_mut().find(|(name, _)| name == KUBECONFIG);
    let (_, path) = kubeconfig.with_context(|| format!("{} has no {KUBECONFIG}", recipe.name))?;
    *path = proxy.kubeconfig(Path::new(path))?.into();
    Ok(())
}
