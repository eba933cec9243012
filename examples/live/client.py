"""A client of `echostream serve`: sends a recording at the speed of speech, prints the translation, keeps the voice.

python examples/live/client.py talk.wav ws://127.0.0.1:8080/ws translated.wav
"""

import asyncio
import json
import sys

import aiohttp
import numpy as np
import soundfile


async def main(recording, url="ws://127.0.0.1:8080/ws", voice="translated.wav"):
    samples, rate = soundfile.read(recording, dtype="int16", always_2d=True)
    async with aiohttp.ClientSession() as client, client.ws_connect(url) as socket:
        await socket.send_json({"protocol": "events", "sample_rate": rate, "audio_out": True})

        async def speak():
            for start in range(0, len(samples), rate // 10):  # 100 ms every 100 ms
                await socket.send_bytes(samples[start : start + rate // 10, 0].tobytes())
                await asyncio.sleep(0.1)
            await socket.send_json({"end_of_stream": True})

        speaking, pieces, voice_rate = asyncio.create_task(speak()), [], 16000
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                pieces.append(np.frombuffer(message.data, "<i2"))
                continue
            event = json.loads(message.data)
            voice_rate = event.get("sample_rate", voice_rate)
            if event["kind"] in ("target_text", "error"):
                print(event.get("added") or event.get("error"), end="", flush=True)
        await speaking
    print()
    soundfile.write(voice, np.concatenate([np.zeros(0, "<i2"), *pieces]), voice_rate)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
