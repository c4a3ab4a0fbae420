"use strict";
// Pictures of a chosen file, drawn by the browser itself; nothing is sent for them.
const NUM_KEY_FRAMES = 6;
const KEY_FRAME_PX = 200;
const KEY_FRAMES_TIMEOUT_MS = 15000;

// Returns {duration_s, width, height}; rejects with a reason in words. `signal` gives up.
async function drawKeyFrames(file, into, signal) {
  const video = document.createElement("video");
  const address = URL.createObjectURL(file);
  const limit = AbortSignal.any([signal, AbortSignal.timeout(KEY_FRAMES_TIMEOUT_MS)]);
  video.muted = true;
  video.preload = "auto";
  try {
    video.src = address;
    await happens(video, "loadeddata", limit);
    const { duration, videoWidth, videoHeight } = video;
    if (!videoWidth) throw new Error("no picture in it");
    const known = Number.isFinite(duration);
    const count = known ? NUM_KEY_FRAMES : 1;
    for (let index = 0; index < count; index += 1) {
      const time = known ? (duration * (index + 0.5)) / count : 0;
      if (known) {
        const seeked = happens(video, "seeked", limit);
        video.currentTime = time;
        await seeked;
      }
      const canvas = document.createElement("canvas");
      canvas.width = KEY_FRAME_PX;
      canvas.height = Math.max(1, Math.round((KEY_FRAME_PX * videoHeight) / videoWidth));
      canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Frame at ${time.toFixed(1)} s`);
      into.append(canvas);
    }
    return { duration_s: known ? duration : null, width: videoWidth, height: videoHeight };
  } finally {
    video.removeAttribute("src");
    video.load();
    URL.revokeObjectURL(address);
  }
}

// Waits for an event of a video; an error of the video, or the signal, ends the waiting.
function happens(video, name, signal) {
  return new Promise((resolve, reject) => {
    const done = new AbortController();
    const settle = (action, value) => () => { done.abort(); action(value); };
    const failed = new Error("this browser can't play it");
    video.addEventListener(name, settle(resolve), { signal: done.signal });
    video.addEventListener("error", settle(reject, failed), { signal: done.signal });
    signal.addEventListener("abort", settle(reject, new Error("it took too long")), { signal: done.signal });
    if (signal.aborted) settle(reject, new Error("it took too long"))();
  });
}
