/** The camera: frames come one after the other, each when the one before has been dealt with. */

/** Open the camera. Returns a video element to draw frames from, and `stop`. */
export async function openCamera() {
  if (!navigator.mediaDevices) {
    throw new Error("The browser gives the camera only to pages that come from localhost or over https.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    throw new Error(`The camera cannot be used: ${error.message}`);
  }
  const video = document.createElement("video");
  video.muted = video.playsInline = true; // Phones would otherwise open their own player.
  video.srcObject = stream;
  await video.play();
  return { video, stop: () => stream.getTracks().forEach((track) => track.stop()) };
}
